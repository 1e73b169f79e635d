"""Thermal zones, cooling devices that throttle, and the fan."""

from __future__ import annotations

import re

from edge.host.paths import glob, read_text
from edge.host.sensors.sysfs import OptionalAttribute

# Reads 50 °C or 100 °C whatever the board does.
DUMMY_ZONES = frozenset({"PMIC-Die"})
# A zone whose unit is off returns an error, or -256 °C.
COLDEST_C, HOTTEST_C = -100.0, 200.0
# Cooling devices that throttle: the boards' own alerts, and the kernel's caps on clocks (drivers/thermal,
# cpufreq_cooling.c and devfreq_cooling.c, whose names changed with Linux 5.12). Fans do not, and neither does the
# hot-surface alert.
_SLOWING = re.compile(r".+-throttle-alert|(thermal-)?(cpufreq|devfreq)-.+")
_ZONE_SUFFIX = re.compile(r"[-_](thermal|therm)$")


def zone_name(kind: str) -> str:
    """Return a zone's short name, "gpu" for `GPU-therm` and `gpu-thermal`."""
    return _ZONE_SUFFIX.sub("", kind).lower()


def plausible_c(temperature_c: float | None) -> float | None:
    return temperature_c if temperature_c is not None and COLDEST_C < temperature_c < HOTTEST_C else None


def is_slowing(kind: str) -> bool:
    """Return whether a cooling device throttles when it is active."""
    return _SLOWING.fullmatch(kind) is not None


class ThermalZones:
    """The thermal zones."""

    def __init__(self) -> None:
        self._files: dict[str, OptionalAttribute] = {}
        for folder in glob("/sys/class/thermal/thermal_zone*"):
            kind = read_text(f"{folder}/type")
            if kind is not None and kind not in DUMMY_ZONES:
                name = zone_name(kind)
                number = sum(1 for each in self._files if each.partition("#")[0] == name)
                self._files[f"{name}#{number}" if number else name] = OptionalAttribute(f"{folder}/temp", 1e-3)

    def read(self) -> dict[str, float | None]:
        """Return °C by zone; None for a zone that is off."""
        return {name: plausible_c(file.read()) for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class ThrottlingDevices:
    """The cooling devices that throttle."""

    def __init__(self) -> None:
        self._files: list[tuple[str, OptionalAttribute]] = []
        for folder in glob("/sys/class/thermal/cooling_device*"):
            kind = read_text(f"{folder}/type")
            if kind is not None and is_slowing(kind):
                self._files.append((kind, OptionalAttribute(f"{folder}/cur_state")))

    def read(self) -> tuple[str, ...] | None:
        """Return the names of the active ones; None if no device can be read."""
        states = [(kind, file.read()) for kind, file in self._files]
        if all(state is None for _, state in states):
            return None
        return tuple(kind for kind, state in states if state)

    def close(self) -> None:
        for _, file in self._files:
            file.close()


class Fan:
    """The board's fan: JetPack 4's own device, or the PWM and tachometer devices of later kernels."""

    FULL = 255.0

    def __init__(self) -> None:
        chips = {folder: read_text(f"{folder}/name") for folder in glob("/sys/class/hwmon/hwmon*")}
        duties = [
            "/sys/devices/pwm-fan/cur_pwm",
            *(f"{folder}/pwm1" for folder, name in chips.items() if name == "pwmfan"),
        ]
        speeds = [
            "/sys/devices/pwm-fan/rpm_measured",
            *(f"{folder}/rpm" for folder, name in chips.items() if name == "pwm_tach"),
        ]
        self._duty = next((OptionalAttribute(path, 1 / self.FULL) for path in duties if glob(path)), None)
        self._speed = next((OptionalAttribute(path) for path in speeds if glob(path)), None)

    def read(self) -> tuple[float | None, float | None]:
        """Return the duty, 0…1, and the revolutions per minute."""
        duty = self._duty.read() if self._duty else None
        return (
            duty if duty is not None and 0 <= duty <= 1 else None,
            self._speed.read() if self._speed else None,
        )

    def close(self) -> None:
        for file in (self._duty, self._speed):
            if file is not None:
                file.close()
