"""Power modes as the daemon and the commands see them: what is read, what is meant, what is set, and what refused."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.cli.main import main
from edge.core.errors import ConfigError, EdgeError
from edge.power import edge_power
from edge.power.edge_power import Conf, Mode
from edge.power.mode_selection import budget_w, resolve
from edge.power.modes import NoSuchModeError, PowerModeError, PowerModes, read_modes, set_mode
from tests.support.emulated_boards.power_modes import BOARDS, install_tools, write_power_modes
from tests.support.waiting import eventually

# In the mode that the board starts in.
MEANT = {
    "tx2": ("MAXQ", "MAXP_CORE_ARM"),
    "xavier-nx": ("10W_4CORE", "20W_6CORE"),
    "agx-xavier": ("15W_DESKTOP", "MAXN"),
    "orin-nano": ("15W", "15W"),
    "orin-nano-super": ("15W", "MAXN_SUPER"),
    "orin-nx": ("10W", "15W"),
    "orin-nx-super": ("25W", "MAXN_SUPER"),
    "agx-orin": ("MODE_30W", "MODE_30W"),
    "thor": ("120W", "MAXN"),
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes power modes")


@dataclass(frozen=True)
class Emulated:
    """A board below EDGE_ROOT, its programs on PATH."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "var/lib/nvpmodel"

    def noted(self, file: str) -> list[int]:
        path = self.state / file
        return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def emulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Emulated]:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", install_tools(tmp_path / "bin"))
    monkeypatch.delenv("FAKE_NVPMODEL", raising=False)

    def board(name: str) -> Emulated:
        write_power_modes(tmp_path, name)
        return Emulated(tmp_path)

    return board


def read() -> PowerModes:
    modes = read_modes()
    assert modes is not None
    return modes


def named(modes: PowerModes, name: str) -> Mode:
    return next(mode for mode in modes.modes if mode.name == name)


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_tells_its_mode_and_what_max_q_and_max_p_mean(
    board: str, emulate: Callable[[str], Emulated]
) -> None:
    emulate(board)
    modes = read()
    assert modes.file == BOARDS[board].conf
    assert modes.current is not None
    assert modes.current.id == BOARDS[board].default
    assert modes.default == modes.current
    assert modes.stored() == modes.current
    choices = [resolve(goal, modes) for goal in ("max-q", "max-p")]
    assert tuple(choice.mode.name for choice in choices) == MEANT[board]
    assert not any(choice.needs_reboot for choice in choices)
    assert resolve("keep", modes).mode == modes.current


@as_root
@pytest.mark.parametrize("board", [board for board in BOARDS if board not in ("tx2", "xavier-nx")])
def test_a_mode_that_needs_a_reboot_is_refused_without_one(board: str, emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate(board)
    modes = read()
    far = [mode for mode in modes.modes if modes.reachable(mode) is False]
    assert far
    for mode in far:
        assert resolve(mode.name, modes).needs_reboot
        with pytest.raises(PowerModeError, match=r"switching from .* needs a reboot; .*--allow-reboot"):
            set_mode(modes, mode)
    assert emulated.noted("starts") == emulated.noted("changes") == emulated.noted("reboots") == []


@as_root
@pytest.mark.parametrize("board", BOARDS)
def test_every_mode_within_reach_is_set_and_read_back(board: str, emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate(board)
    modes = read()
    wanted = [mode.id for mode in modes.modes if modes.reachable(mode) and mode != modes.current]
    done = [set_mode(modes, mode).mode for mode in modes.modes if mode.id in wanted]
    assert emulated.noted("changes") == done == wanted
    if wanted:
        assert read().current == modes.conf.mode(wanted[-1])


@as_root
def test_a_reboot_that_is_allowed_is_done(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("agx-orin")
    modes = read()
    assert set_mode(modes, named(modes, "MODE_15W"), allow_reboot=True).rebooting
    assert emulated.noted("reboots") == [1]


@as_root
def test_where_reboots_are_allowed_none_happens_without_need(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    modes = read()
    assert not set_mode(modes, named(modes, "MAXQ"), allow_reboot=True).rebooting
    assert (emulated.noted("changes"), emulated.noted("reboots")) == ([1], [])


@as_root
def test_the_mode_that_is_set_already_is_not_set_again(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    modes = read()
    assert modes.current is not None
    assert set_mode(modes, modes.current).before == modes.current.id
    assert emulated.noted("starts") == []


@as_root
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("silent", r"was not set although nvpmodel reported no error: the board is in MAXP_CORE_ARM \(mode 3\)"),
        ("error", r"was not set: nvpmodel reported 'NVPM ERROR: Error writing 255 .*the board is in MAXP_CORE_ARM"),
        ("partly", r"was not set: nvpmodel reported 'NVPM ERROR: Error opening .*the board is in MAXQ"),
        ("chroot", r"was not set: nvpmodel reported 'Running in chroot, ignoring request"),
        ("guest", r"was not set: nvpmodel reported 'NVPM ERROR: .*: 13'"),
        ("drift", r"switching from MAXP_CORE_ARM \(mode 3\) to .* needs a reboot; request it with --allow-reboot"),
        ("mute", r"the current power mode is not in nvpmodel_t186.conf: nvpmodel reported ''"),
        ("hang", r"was not set: nvpmodel -m 1 did not finish within 0.5 s and was killed; the board is in MAXP"),
    ],
)
def test_whatever_nvpmodel_does_wrong_is_told(
    wrong: str, message: str, emulate: Callable[[str], Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = emulate("tx2")
    conf = read().conf
    monkeypatch.setenv("FAKE_NVPMODEL", wrong)
    with pytest.raises(edge_power.PowerError, match=message):
        edge_power.set_mode(conf, conf.modes[1], limit_s=0.5 if wrong == "hang" else 30)
    assert emulated.noted("reboots") == []
    for child in emulated.noted("children"):
        eventually(lambda child=child: _has_ended(child), "the end of what nvpmodel started")  # type: ignore[misc]


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@as_root
def test_a_mask_that_drifted_is_mended_by_a_reboot_where_that_is_allowed(
    emulate: Callable[[str], Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = emulate("tx2")
    monkeypatch.setenv("FAKE_NVPMODEL", "drift")
    modes = read()
    assert set_mode(modes, named(modes, "MAXN"), allow_reboot=True).rebooting
    assert emulated.noted("reboots") == [0]


@as_root
def test_clocks_that_jetson_clocks_held_are_held_again_in_the_new_mode(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    modes = read()
    (emulated.state / "clocks").write_text("pmode:0003\n")
    assert set_mode(modes, named(modes, "MAXN")).clocks_locked
    assert (emulated.state / "clocks").read_text() == "pmode:0003\npmode:0000\n"


@as_root
def test_clocks_that_nobody_held_stay_free(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    modes = read()
    assert set_mode(modes, named(modes, "MAXN")).clocks_locked is None
    assert not (emulated.state / "clocks").exists()


@as_root
def test_clocks_that_cannot_be_held_again_are_told(
    emulate: Callable[[str], Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = emulate("tx2")
    modes = read()
    (emulated.state / "clocks").write_text("pmode:0003\n")
    monkeypatch.setenv("FAKE_JETSON_CLOCKS", "broken")
    assert set_mode(modes, named(modes, "MAXN")).clocks_locked is False


def test_one_who_is_not_root_reads_the_mode_among_errors(
    emulate: Callable[[str], Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate("tx2")
    monkeypatch.setenv("FAKE_NVPMODEL", "guest fan")
    assert read().current == read().default


def test_without_nvpmodel_its_status_tells_the_mode(
    emulate: Callable[[str], Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = emulate("tx2")
    monkeypatch.setenv("PATH", str(emulated.root / "nothing"))
    assert read().current == read().default
    (emulated.state / "status").unlink()
    modes = read()
    assert modes.current is None
    assert modes.unknown is not None
    assert "nvpmodel cannot be run" in modes.unknown
    assert modes.reachable(modes.modes[0]) is None
    with pytest.raises(PowerModeError, match="cannot be kept: nvpmodel cannot be run"):
        resolve("keep", modes)
    assert resolve("max-q", modes).mode.name == "MAXQ"


def test_elsewhere_there_are_no_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    assert read_modes() is None


def test_a_configuration_that_makes_no_sense_is_told(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    (emulated.root / "etc/nvpmodel/nvpmodel_t186.conf").write_text("< POWER_MODEL ID=x >")
    with pytest.raises(PowerModeError, match=r"nvpmodel_t186.conf, line 1: .* is not understood"):
        read_modes()


class Jtop:
    """Stands for jtop's service: sets what it is asked, or keeps silent."""

    def __init__(self, emulated: Emulated, *, lacks: str | None = None, silent: bool = False) -> None:
        self._emulated = emulated
        self._lacks = lacks
        self._silent = silent

    def missing_reason(self) -> str | None:
        return self._lacks

    def set_mode(self, name: str) -> None:
        if not self._silent:
            mode = named(read(), name)
            (self._emulated.state / "status").write_text(f"pmode:{mode.id:04d}")


@pytest.fixture
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.power.modes.os.geteuid", lambda: 1000)


@pytest.mark.usefixtures("no_root")
def test_jtop_sets_the_mode_where_nothing_else_can(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    modes = read()
    assert set_mode(modes, named(modes, "MAXQ"), jtop=Jtop(emulated)).mode == 1
    assert read().current == named(modes, "MAXQ")


@pytest.mark.usefixtures("no_root")
def test_a_silent_refusal_of_jtop_is_a_refusal(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    modes = read()
    with pytest.raises(PowerModeError, match=r"jtop left the board in MAXP_CORE_ARM \(mode 3\); wanted MAXQ"):
        set_mode(modes, named(modes, "MAXQ"), jtop=Jtop(emulated, silent=True))


@pytest.mark.usefixtures("no_root")
def test_jtop_is_not_asked_for_a_mode_that_needs_a_reboot(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("agx-orin")
    modes = read()
    with pytest.raises(PowerModeError, match="cannot be set through jtop: switching from MODE_30W"):
        set_mode(modes, named(modes, "MODE_15W"), allow_reboot=True, jtop=Jtop(emulated))


@pytest.mark.usefixtures("no_root")
def test_one_who_may_not_is_told_each_way_and_the_next_step(emulate: Callable[[str], Emulated]) -> None:
    emulated = emulate("tx2")
    modes = read()
    message = "edge-power cannot be reached at .*; no jtop here; run as root, or enable the service: systemctl enable"
    with pytest.raises(PowerModeError, match=message):
        set_mode(modes, named(modes, "MAXQ"), jtop=Jtop(emulated, lacks="no jtop here"))
    assert emulated.noted("starts") == []


def made(*rows: Mode, current: int = 0) -> PowerModes:
    conf = Conf("made.conf", rows, None)
    return PowerModes(conf, conf.mode(current))


def test_a_measured_mode_comes_before_all_others(emulate: Callable[[str], Emulated]) -> None:
    emulate("tx2")
    choice = resolve("max-q", read(), {"max-q": "MAXP_CORE_ALL", "max-p": "MAXN"})
    assert (choice.mode.name, choice.reason) == ("MAXP_CORE_ALL", "measured here: least energy per image")
    choice = resolve("MAX-P", read(), {"max-p": "0"})
    assert (choice.mode.name, choice.reason) == ("MAXN", "measured here: most images per second")


def test_a_measured_mode_that_is_gone_is_told(emulate: Callable[[str], Emulated]) -> None:
    emulate("tx2")
    choice = resolve("max-q", read(), {"max-q": "MODE_30W"})
    assert choice.mode.name == "MAXQ"
    assert choice.reason == (
        "the measured mode MODE_30W is not a single mode of nvpmodel_t186.conf; the board has a mode of that name"
    )


def test_what_lies_beyond_a_reboot_is_told(emulate: Callable[[str], Emulated]) -> None:
    emulate("agx-orin")
    assert resolve("max-q", read()).reason == "the lowest budget within reach (30 W); MODE_15W would need a reboot"
    reason = resolve("max-p", read()).reason
    assert reason == "the highest budget within reach (30 W); MAXN and MODE_50W would need a reboot"


def test_among_equal_budgets_the_gpu_counts_first_then_cores_times_clock() -> None:
    slow_gpu = Mode(0, "10W_A", 8, 2000, 500)
    few_cores = Mode(1, "10W_B", 2, 1500, 800)
    more_cores = Mode(2, "10W_C", 4, 1200, 800)
    assert resolve("max-q", made(slow_gpu, few_cores, more_cores)).mode == more_cores
    assert resolve("max-p", made(more_cores, few_cores, slow_gpu)).mode == more_cores
    uncapped = Mode(3, "10W_D", 1, 100, None)
    assert resolve("max-p", made(more_cores, few_cores, slow_gpu, uncapped)).mode == uncapped


def test_modes_without_a_budget_are_not_guessed_at() -> None:
    with pytest.raises(PowerModeError, match=r"max-q is not clear: .* wanted one of QUIET \(mode 0\), LOUD \(mode 1\)"):
        resolve("max-q", made(Mode(0, "QUIET", 1), Mode(1, "LOUD", 1)))


def test_a_name_that_two_modes_have_needs_the_id() -> None:
    modes = made(Mode(0, "A B", 1), Mode(3, "twin", 1), Mode(5, "twin", 2))
    with pytest.raises(NoSuchModeError, match=r"'twin' is ambiguous: twin \(mode 3\), twin \(mode 5\); give the id"):
        resolve("twin", modes)
    assert resolve("5", modes).mode.cores == 2
    assert resolve("a b", modes).mode.id == 0


def test_an_unknown_mode_is_told_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"'fast' is not in made.conf; wanted max-q, max-p, keep or one of A \(mode 0\)"
    ):
        resolve("fast", made(Mode(0, "A", 1)))


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("MODE_15W", 15),
        ("15W_2CORE", 15),
        ("7W_AI", 7),
        ("120W", 120),
        ("7.5W", 7.5),
        ("MAXN", math.inf),
        ("MAXN_SUPER", math.inf),
        ("MAXQ", None),
        ("MAXNOT", None),
        ("WARM2WORK", None),
    ],
)
def test_a_budget_is_read_from_the_name(name: str, watts: float | None) -> None:
    assert budget_w(Mode(0, name, 1)) == watts


def test_show_explains_the_modes(emulate: Callable[[str], Emulated], capsys: pytest.CaptureFixture[str]) -> None:
    emulate("agx-xavier")
    assert main(["power", "show"]) == 0
    shown = capsys.readouterr().out
    assert "30W_6CORE" in shown
    assert "max-q is 15W_DESKTOP (mode 7): the lowest budget within reach (15 W), and among 2 such modes" in shown
    assert main(["power", "show", "--json"]) == 0
    message = json.loads(capsys.readouterr().out)
    assert (message["file"], message["current"], message["default"]) == ("nvpmodel_t194.conf", 2, 2)
    assert message["modes"][1] == {
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
    assert message["modes"][0]["budget_w"] is None
    assert message["reboot_groups"] == [[0, 2, 3, 4, 5, 6, 7], [1]]
    assert (message["max_q"]["name"], message["max_p"]["name"]) == ("15W_DESKTOP", "MAXN")


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
    assert "not a Jetson: no power modes" in capsys.readouterr().out
    assert main(["power", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modes"] is None
    assert main(["power", "set", "max-q"]) == 1
    assert "not a Jetson" in capsys.readouterr().err


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


def test_errors_of_power_modes_are_errors_of_edge() -> None:
    assert issubclass(PowerModeError, EdgeError)
    assert NoSuchModeError("").exit_code == 2
