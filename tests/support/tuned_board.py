"""A board for `edge tune` whose power is known: each mode takes so many watts, and each image so many joules."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge.core.errors import EdgeError
from edge.host.sensors.conditions import Conditions
from tests.support.configuration import belt
from tests.support.project import CONVEYOR

MODEL = {"models.conveyor": {"path": str(CONVEYOR)}}
STREAM = {"streams.a": belt(size="160x120", fps=20)}
IDLE_W = {"HIGH": 8.0, "MID": 3.0, "LOW": 2.0, "OTHER": 1.0}  # from the fastest to the slowest
# MID takes the fewest joules an image from 1 to 500 images a second, whatever else the machine does meanwhile.
IMAGE_J = {"HIGH": 0.010, "MID": 0.020, "LOW": 1.020, "OTHER": 0.010}
NEEDS_REBOOT = "OTHER"


@dataclass
class KnownPower:
    """The board's modes; OTHER is behind a reboot."""

    mode: str = "MID"
    switched: list[str] = field(default_factory=list)
    fails: str = ""  # a mode that cannot be set

    def modes(self) -> Sequence[str]:
        return tuple(IDLE_W)

    def current(self) -> str:
        return self.mode

    def name_of(self, text: str) -> str:
        return {"max-q": "MID", "max-p": "HIGH"}.get(text.casefold(), text.upper())

    def is_live(self, mode: str) -> bool:
        return (mode == NEEDS_REBOOT) == (self.mode == NEEDS_REBOOT)

    def is_slower(self, mode: str, than: str, /) -> bool:
        return IDLE_W[mode] < IDLE_W[than]

    def set_mode(self, mode: str, *, allow_reboot: bool = False) -> bool:
        if mode == self.fails:
            raise EdgeError(f"mode {mode} cannot be set")
        reboots = not self.is_live(mode)
        assert allow_reboot or not reboots, "a reboot that nobody allowed"
        self.switched.append(mode)
        self.mode = mode
        return reboots


@dataclass(frozen=True)
class KnownReading:
    power_w: float | None
    throttled: bool | None
    conditions: Conditions


class KnownSensors:
    """Reads the power that `power`'s mode and the images must have taken."""

    def __init__(self, power: KnownPower, at_read: Callable[[], None] = lambda: None) -> None:
        self._power = power
        self._at_read = at_read
        self._last_s = 0.0
        self.running = False
        self.throttled: Callable[[str], bool] = lambda _mode: False

    def start(self) -> None:
        self.running, self._last_s = True, time.monotonic()

    def stop(self) -> None:
        self.running = False

    def read(self, images: int | None = None, power_mode: str | None = None) -> KnownReading:
        assert power_mode == self._power.mode
        self._at_read()
        now_s = time.monotonic()
        period_s, self._last_s = now_s - self._last_s, now_s
        energy_j = IDLE_W[self._power.mode] * period_s + IMAGE_J[self._power.mode] * (images or 0)
        throttled = self.throttled(self._power.mode)
        return KnownReading(
            energy_j / period_s, throttled, Conditions(temperature_c={"cpu": 50.0, "gpu": 51.0, "soc": None})
        )
