"""Power modes of this board by name, set through edge-power, root, or jtop's service."""

from __future__ import annotations

from edge.core.errors import EdgeError
from edge.power.edge_power import Mode
from edge.power.jtop import JtopClient
from edge.power.mode_selection import is_capped_within, resolve
from edge.power.modes import PowerModeError, PowerModes, read_modes, set_mode


class BoardPower:
    """The board's power modes for `edge tune`; each call reads the current state."""

    def __init__(self, modes: PowerModes) -> None:
        self._modes = modes

    def modes(self) -> tuple[str, ...]:
        return tuple(mode.name for mode in self._modes.modes)

    def current(self) -> str:
        """Return the current mode; raise PowerModeError if it is not known."""
        return self._now().name

    def name_of(self, text: str) -> str:
        """Return the mode for max-q, max-p, a name or an id; raise NoSuchModeError naming the available ones."""
        return self._mode(text).name

    def is_live(self, mode: str) -> bool:
        """Return whether a mode can be set without a reboot."""
        return self._mode(mode).masks == self._now().masks

    def is_slower(self, mode: str, than: str, /) -> bool:
        """Return whether every stated cap of a mode is at or below that of another."""
        slower, faster = self._mode(mode), self._mode(than)
        # Unstated caps cannot be compared; but a board whose modes never mention a DLA has none.
        if slower.unstated != faster.unstated or slower.unstated - {"dla"} or not (slower.cores and faster.cores):
            return False
        return slower != faster and is_capped_within(slower, faster)

    def set_mode(self, mode: str, *, allow_reboot: bool = False) -> bool:
        """Set a mode; return whether the board reboots for it. Raises EdgeError if it was not set."""
        change = set_mode(self._fresh(), self._mode(mode), allow_reboot=allow_reboot, jtop=JtopClient())
        return change.rebooting

    def _mode(self, name: str) -> Mode:
        return resolve(name, self._modes).mode

    def _now(self) -> Mode:
        modes = self._fresh()
        if modes.current is None:
            raise PowerModeError(modes.unknown or "the current power mode is not known; see edge power show")
        return modes.current

    def _fresh(self) -> PowerModes:
        modes = read_modes()
        if modes is None:
            raise EdgeError("the board's power modes are no longer available; see edge power show")
        return modes


def board_power() -> BoardPower | None:
    """Return this board's power modes; None if it has none."""
    modes = read_modes()
    return None if modes is None else BoardPower(modes)
