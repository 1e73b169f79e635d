"""Power modes through jtop where its service cannot be reached, and the imports of its bridge."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.power import jtop
from edge.power.jtop import JtopError
from tests.support.jtop_service.machine import ROOT
from tests.support.jtop_stand_in import MakeClient, stand_in_clients


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    with stand_in_clients(tmp_path, monkeypatch) as make:
        yield make


def test_machine_without_the_service_says_so_and_starts_nothing(
    client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client()
    monkeypatch.setattr(jtop, "SOCKET", Path("/nowhere/jtop.sock"))
    monkeypatch.setattr(subprocess, "Popen", None)
    assert not made.available()
    with pytest.raises(JtopError, match=r"not running.*start it"):
        made.current()


def test_emulated_board_never_reaches_the_service_of_this_machine(
    client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client()
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path / "board"))
    assert not made.available()
    inside = tmp_path / "board" / jtop.SOCKET.relative_to("/")
    inside.parent.mkdir(parents=True)
    inside.hardlink_to(jtop.SOCKET)  # as where the socket of a host is mounted into a container
    assert made.available()


def test_jtop_is_imported_by_the_bridge_alone_and_the_bridge_imports_nothing_of_ours() -> None:
    importers = []
    for path in (ROOT / "edge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "jtop" for name in names):
                importers.append(path.name)
            if path.name == "jtop_bridge.py":
                assert not any(name.split(".")[0] == "edge" for name in names)
    assert importers == ["jtop_bridge.py"]
