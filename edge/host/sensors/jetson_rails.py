"""Power monitors of a Jetson: their channels, and a reading of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.core.clock import now_ns
from edge.host.paths import glob, inside, read_text
from edge.host.sensors.rail_table import is_rail
from edge.host.sensors.sysfs import Attribute

# Without current, amplifiers read a little below zero; anything lower is a wrong reading.
LOWEST_W = -1.0
HIGHEST_W = 1000.0
# The moment of a value that took longer to read is unknown.
SLOWEST_READ_NS = 200_000_000
# A file that is being written is read again once, after this time.
RETRY_S = 0.002
SEARCH_PERIOD_NS = 2_000_000_000

Reading = tuple[str, int, float | None]  # rail, monotonic ns, watts; None for a missing reading
Convert = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class ChannelFormat:
    """The files that hold the power of a channel N, and their units."""

    files: tuple[str, ...]
    watts: Convert


def _from_mw(values: Sequence[float]) -> float:
    return values[0] / 1e3


def _from_uw(values: Sequence[float]) -> float:
    return values[0] / 1e6


def _from_mv_ma(values: Sequence[float]) -> float:
    return values[0] * values[1] / 1e6


@dataclass(frozen=True, slots=True)
class Driver:
    """The files in which one driver shows its channels."""

    name: str
    folders: tuple[str, ...]  # tried in turn: the first with channels counts
    channels: tuple[int, ...]
    label: str  # the file
    default_label: str  # if that file is missing
    formats: tuple[ChannelFormat, ...]  # the first whose files all exist is read


def _hwmon(name: str) -> tuple[str, ...]:
    return (
        f"/sys/bus/i2c/drivers/{name}/*-*/hwmon/hwmon*",
        "/sys/bus/i2c/devices/*-*/hwmon/hwmon*",
        "/sys/class/hwmon/hwmon*",
    )


DRIVERS = (
    # Channels 4 to 6 are shunt voltages, 7 is their sum: not rails.
    Driver("ina3221", _hwmon("ina3221"), (1, 2, 3), "in{}_label", "",
           (ChannelFormat(("in{}_input", "curr{}_input"), _from_mv_ma),)),
    Driver("ina238", _hwmon("ina238"), (1,), "in{}_label", "VIN",
           (ChannelFormat(("power{}_input",), _from_uw), ChannelFormat(("in{}_input", "curr{}_input"), _from_mv_ma))),
    # JetPack 4. Its power file comes from one measurement; voltage and current read apart may not belong together.
    Driver("ina3221x", ("/sys/bus/i2c/drivers/ina3221x/*-*/iio*device*",), (0, 1, 2), "rail_name_{}", "",
           (ChannelFormat(("in_power{}_input",), _from_mw),
            ChannelFormat(("in_voltage{}_input", "in_current{}_input"), _from_mv_ma))),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Channel:
    """The files of one rail."""

    name: str
    chip: str  # the folder
    label_path: str | None
    label: str
    paths: tuple[str, ...]
    watts: Convert


def find_channels() -> list[Channel]:
    """Look for all rails; a label shared by two chips is extended with the chip's address."""
    found = [channel for driver in DRIVERS for channel in _of_driver(driver)]
    labels = [channel.label for channel in found]
    return [
        replace(each, name=f"{each.label}@{_address(each.chip)}") if labels.count(each.label) > 1 else each
        for each in found
    ]


def _address(chip: str) -> str:
    """Return a chip's address on its bus, "1-0040", else the name of its folder."""
    parts = chip.split("/")
    return next((part for part in parts if part[:1].isdigit() and "-" in part), parts[-1])


def _of_driver(driver: Driver) -> list[Channel]:
    for pattern in driver.folders:
        found = [channel for folder in glob(pattern) for channel in _of_chip(driver, folder)]
        if found:
            return found
    return []


def _of_chip(driver: Driver, folder: str) -> Iterator[Channel]:
    name = read_text(f"{folder}/name")
    if name != driver.name and not (name is None and f"/drivers/{driver.name}/" in folder):
        return
    for number in driver.channels:
        label_path = f"{folder}/{driver.label.format(number)}"
        label = read_text(label_path)
        rail = label or driver.default_label
        if not is_rail(rail) or read_text(f"{folder}/in{number}_enable") == "0":
            continue
        for layout in driver.formats:
            paths = tuple(f"{folder}/{file.format(number)}" for file in layout.files)
            if all(glob(path) for path in paths):
                yield Channel(rail, folder, label_path if label else None, rail, paths, layout.watts)
                break


class RailMeter:
    """Reads one rail, whose files may be replaced, or vanish and reappear elsewhere."""

    def __init__(self, channel: Channel) -> None:
        self._files: list[Attribute] = []
        self.is_lost = True  # its files are not open
        self.is_partial = False  # the newest read hit a file that was being written
        self.move(channel)

    def move(self, channel: Channel) -> None:
        """Read the rail from another channel from now on."""
        self.channel = channel
        self._places: tuple[Path, ...] = ()  # of its files, links resolved
        self._label_place: Path | None = None

    def open(self) -> None:
        """Open the files if the label still says that they are this rail's."""
        self.close()
        channel = self.channel
        try:
            if not self._places:
                self._places = tuple(inside(path) for path in channel.paths)
                self._label_place = None if channel.label_path is None else inside(channel.label_path)
            if self._label_place is None or self._label_place.read_text(errors="replace").strip() == channel.label:
                for place in self._places:
                    self._files.append(Attribute(place))
                self.is_lost = False
        except OSError:
            self.close()
            self._places = ()  # a link may lead elsewhere next time

    def read(self) -> tuple[int, float | None]:
        """Return the midpoint of the reading's time, and watts; None for a missing reading."""
        start_ns = now_ns()
        values = self._values()
        end_ns = now_ns()
        self.is_partial = any(file.is_partial for file in self._files)
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values) or end_ns - start_ns > SLOWEST_READ_NS:
            return end_ns, None
        watts = self.channel.watts(known)
        return (start_ns + end_ns) // 2, max(watts, 0.0) if LOWEST_W <= watts <= HIGHEST_W else None

    def _values(self) -> list[float | None]:
        """Read the files; if they were replaced, reopen them once."""
        try:
            return [file.read() for file in self._files]
        except OSError:
            self.open()
        try:
            return [file.read() for file in self._files]
        except OSError:
            self.close()
            return []

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()
        self.is_lost = True


class Bus:
    """The rails of one I2C bus, read by one thread: its monitors wait for one another in any case."""

    # 20.6 Hz is neither a multiple nor a divisor of a camera's rate. In step with a camera, each sample would hit the
    # load in the same phase, and its energy would be wrong by any amount.
    period_s = 0.0485
    # Readings further apart are not joined: the power between them is not known. An occasional missing or late one (a
    # file that is being written, a busy machine) must not cost the time around it.
    bound_s = 0.5

    def __init__(self, name: str, channels: Sequence[Channel]) -> None:
        self.name = name
        self.rails = tuple(channel.name for channel in channels)
        self._meters = [RailMeter(channel) for channel in channels]
        self._searched_ns = 0

    def read(self) -> list[Reading]:
        """Return one reading of each rail, normally from files that are already open."""
        readings = []
        for meter in self._meters:
            if meter.is_lost:
                self._look_for(meter)
            was_partial = meter.is_partial
            at_ns, watts = meter.read()
            if watts is None and meter.is_partial and not was_partial:
                time.sleep(RETRY_S)
                at_ns, watts = meter.read()
            readings.append((meter.channel.name, at_ns, watts))
        return readings

    def _look_for(self, meter: RailMeter) -> None:
        """Reopen a rail; if its files are gone, search for their new place, but not at each reading."""
        meter.open()
        if meter.is_lost and now_ns() - self._searched_ns >= SEARCH_PERIOD_NS:
            self._searched_ns = now_ns()
            found = {channel.name: channel for channel in find_channels()}
            for lost in (each for each in self._meters if each.is_lost):
                there = found.get(lost.channel.name)
                if there is not None and there.watts is lost.channel.watts:
                    lost.move(there)
                    lost.open()

    def close(self) -> None:
        for meter in self._meters:
            meter.close()


def find_buses() -> list[Bus]:
    """Look for the power monitors and their rails, by bus."""
    found: dict[str, list[Channel]] = {}
    for channel in find_channels():
        found.setdefault(_address(channel.chip).partition("-")[0], []).append(channel)
    return [Bus(f"I2C bus {bus}" if bus.isdigit() else bus, channels) for bus, channels in found.items()]
