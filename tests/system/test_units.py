"""The units as systemd itself judges them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.project import ROOT, program

UNITS = ROOT / "systemd"
# The bounds that the project has set itself; systemd's scale ends at 10.
MOST_EXPOSED = {"edge.service": 1.6, "edge-power.service": 2.2}


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze", "systemd"), "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_to_complain_of(tmp_path: Path) -> None:
    """The programs are stood in for, as systemd asks whether they are there."""
    for name in ("edge", "edge-power"):
        shutil.copy("/bin/true", tmp_path / name)
    for unit in UNITS.glob("edge*.[so]*"):
        text = unit.read_text(encoding="utf-8").replace("/opt/edge/bin", str(tmp_path))
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    found = analyze(
        "verify", *(tmp_path / name for name in ("edge.service", "edge-power.service", "edge-power.socket"))
    )
    told = [line for line in found.stderr.splitlines() if "edge" in line]
    assert (told, found.returncode) == ([], 0), found.stderr


@pytest.mark.parametrize(
    ("unit", "writable"),
    [("edge.service", {"%S/edge", "%C/edge", "%t/edge"}), ("edge-power.service", {"/var/lib/nvpmodel"})],
)
def test_each_writable_folder_is_named_as_not_executable(unit: str, writable: set[str]) -> None:
    """As systemd leaves out of `NoExecPaths=/` what has a mount of its own, and makes writable what ExecPaths names."""
    lines = (UNITS / unit).read_text(encoding="utf-8").splitlines()
    (not_executable,) = (line.removeprefix("NoExecPaths=").split() for line in lines if line.startswith("NoExecPaths="))
    assert {*writable, "/run", "/tmp", "/var/tmp", "-/dev/shm"} == set(not_executable)
    assert not [line for line in lines if line.startswith("ExecPaths=")]


@pytest.mark.parametrize("unit", MOST_EXPOSED)
def test_a_service_is_exposed_no_more_than_its_bound(unit: str) -> None:
    found = analyze("security", "--offline=true", UNITS / unit)
    if "--offline" in found.stderr:
        pytest.skip("this systemd-analyze judges no file: systemd 250 or newer does")
    exposure = re.search(rf"Overall exposure level for {unit}: ([\d.]+)", found.stdout)
    assert exposure is not None, found.stderr
    assert float(exposure[1]) <= MOST_EXPOSED[unit], found.stdout
