"""Imports and units of the root service."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from edge.power import edge_power

MODULE = Path(edge_power.__file__)


def test_it_imports_the_standard_library_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse(MODULE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= sys.stdlib_module_names


def test_the_units_start_it_as_it_can_be_started() -> None:
    units = Path(__file__).parents[2] / "systemd"
    socket_unit = (units / "edge-power.socket").read_text().splitlines()
    service = (units / "edge-power.service").read_text().splitlines()
    assert f"ListenStream={edge_power.SOCKET}" in socket_unit
    (command,) = [line for line in service if line.startswith("ExecStart=")]
    options = edge_power._parser().parse_args(command.split()[1:])
    assert f"SocketGroup={options.user}" in socket_unit
    assert not options.allow_reboot
