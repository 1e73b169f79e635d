"""Power modes of emulated boards: reading, setting through each way, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import EdgeError
from edge.power import edge_power
from edge.power.mode_selection import resolve
from edge.power.modes import NoSuchModeError, PowerModeError, read_modes, set_mode
from tests.support.emulated_boards.emulated_power import MEANT, Emulated, as_root, named, read
from tests.support.emulated_boards.power_modes import BOARDS
from tests.support.waiting import eventually


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


@pytest.mark.usefixtures("no_root")
def test_one_whom_the_service_does_not_serve_is_told_whom_it_does(
    emulate: Callable[[str], Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = emulate("tx2")
    modes = read()
    path = emulated.root / "run/edge-power.sock"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    monkeypatch.setattr("os.access", lambda *_: False)  # as a socket that is not ours
    with pytest.raises(PowerModeError, match="run as root, or as the user that edge-power serves: sudo -u edge edge"):
        set_mode(modes, named(modes, "MAXQ"))


def test_errors_of_power_modes_are_errors_of_edge() -> None:
    assert issubclass(PowerModeError, EdgeError)
    assert NoSuchModeError("").exit_code == 2
