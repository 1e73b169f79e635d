"""The command edge power: tables, JSON, exit codes and reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.cli.main import main
from tests.support.emulated_boards.emulated_power import MEANT, Emulated, as_root
from tests.support.emulated_boards.power_modes import BOARDS


def test_show_explains_the_modes(emulate: Callable[[str], Emulated], capsys: pytest.CaptureFixture[str]) -> None:
    emulate("agx-xavier")
    assert main(["power", "show"]) == 0
    shown = capsys.readouterr().out
    assert "30W_6CORE" in shown
    assert "max-q is 15W_DESKTOP (mode 7): the lowest budget within reach (15 W), and among 2 such modes" in shown
    assert main(["power", "show", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["file"], report["current"], report["default"]) == ("nvpmodel_t194.conf", 2, 2)
    assert report["modes"][1] == {
        "id": 1,
        "name": "10W",
        "cores": 2,
        "cpu_max_mhz": 1200,
        "gpu_max_mhz": 520,
        "emc_max_mhz": 1065.6,
        "dla_max_mhz": 550,
        "masks": {"TPC_PG_MASK": 5},
        "unstated": [],
        "budget_w": 10,
        "without_reboot": False,
    }
    assert report["modes"][0]["budget_w"] is None
    assert report["reboot_groups"] == [[0, 2, 3, 4, 5, 6, 7], [1]]
    assert (report["max_q"]["name"], report["max_p"]["name"]) == ("15W_DESKTOP", "MAXN")


def test_show_tells_why_a_custom_mode_is_max_q(
    emulate: Callable[[str], Emulated], capsys: pytest.CaptureFixture[str]
) -> None:
    emulated = emulate("agx-xavier")
    conf = next((emulated.root / "etc/nvpmodel").glob("nvpmodel_*.conf"))
    sections = conf.read_text().split("< POWER_MODEL")
    slower = next(section for section in sections if "NAME=15W_DESKTOP " in section)
    slower = slower.replace("ID=7 NAME=15W_DESKTOP", "ID=12 NAME=SOLAR").replace("670", "520")
    conf.write_text("< POWER_MODEL".join([*sections[:-1], slower, sections[-1]]))
    assert main(["power", "show"]) == 0
    shown = capsys.readouterr().out
    assert "max-q is SOLAR (mode 12): its caps are all at or below those of 15W_DESKTOP, the lowest budget" in shown


@pytest.mark.parametrize("board", BOARDS)
def test_every_boards_modes_are_shown(
    board: str, emulate: Callable[[str], Emulated], capsys: pytest.CaptureFixture[str]
) -> None:
    emulate(board)
    assert main(["power", "show"]) == 0
    shown = capsys.readouterr().out
    assert f"max-q is {MEANT[board][0]} (mode " in shown
    assert f"max-p is {MEANT[board][1]} (mode " in shown


def test_elsewhere_show_tells_that_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    assert main(["power", "show"]) == 0
    assert "no power modes: there is no /etc/nvpmodel.conf, which only a Jetson has" in capsys.readouterr().out
    assert main(["power", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modes"] is None
    assert main(["power", "set", "max-q"]) == 1
    assert "there is no /etc/nvpmodel.conf" in capsys.readouterr().err


@as_root
def test_set_ends_with_0_when_done_1_when_refused_and_2_for_no_such_mode(
    emulate: Callable[[str], Emulated], capsys: pytest.CaptureFixture[str]
) -> None:
    emulated = emulate("orin-nx-super")
    assert main(["power", "set", "max-p", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["mode"], done["name"], done["before"], done["rebooting"]) == (0, "MAXN_SUPER", 4, False)
    assert main(["power", "set", "10w"]) == 1
    assert "needs a reboot; request it with --allow-reboot" in capsys.readouterr().err
    assert main(["power", "set", "5W"]) == 2
    assert "wanted max-q, max-p, keep or one of MAXN_SUPER (mode 0), 10W (mode 1)" in capsys.readouterr().err
    assert main(["power", "set", "keep"]) == 0
    assert "MAXN_SUPER (mode 0), unchanged" in capsys.readouterr().out
    assert main(["power", "set", "10W", "--allow-reboot"]) == 0
    assert "10W (mode 1); the board reboots" in capsys.readouterr().out
    assert (emulated.noted("changes"), emulated.noted("reboots")) == ([0, 1], [1])


@pytest.mark.parametrize("arguments", [["power"], ["power", "fly"], ["power", "set"], ["power", "set", "a", "b"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: edge" in capsys.readouterr().err
