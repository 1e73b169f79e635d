"""Energy counters: RAPL below an emulated root, and NVML through a stand-in with the names of nvidia-ml-py."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.host.sensors.conditions import Conditions, with_nvml
from edge.host.sensors.energy_counters import EnergyCounter, Nvml, find_nvml, find_rapl
from tests.support.emulated_boards import tree


class NVMLError(Exception):
    """What NVML raises."""


class StandIn:
    """One GPU; a figure that is None is not supported, as on Thor."""

    NVMLError = NVMLError

    def __init__(self, power_mw: int | None = 60_000, energy_mj: int | None = 1_000_000, reasons: int = 0) -> None:
        self.power_mw, self.energy_mj, self.reasons = power_mw, energy_mj, reasons
        self.is_open = False

    def nvmlInit(self) -> None:  # noqa: N802 -- NVML's names, as below
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetPowerUsage(self, _gpu: int) -> int:  # noqa: N802
        return self._supported(self.power_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, _gpu: int) -> int:  # noqa: N802
        return self._supported(self.energy_mj)

    def nvmlDeviceGetUtilizationRates(self, _gpu: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=62, memory=30)

    def nvmlDeviceGetClockInfo(self, _gpu: int, _kind: int) -> int:  # noqa: N802
        return 1410

    def nvmlDeviceGetTemperature(self, _gpu: int, _sensor: int) -> int:  # noqa: N802
        return 51

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _gpu: int) -> int:  # noqa: N802
        return self.reasons

    def _supported(self, value: int | None) -> int:
        if value is None:
            raise NVMLError
        return value


def test_the_energy_counter_is_told_as_even_power() -> None:
    library = StandIn()
    nvml = Nvml(library)
    assert (nvml.rails, nvml.read()) == (("gpu0",), [])
    library.energy_mj = 1_000_001
    (_, since_ns, watts), (_, at_ns, _) = nvml.read()
    assert watts is not None
    assert watts * (at_ns - since_ns) / 1e9 == pytest.approx(0.001)


def test_a_gpu_without_an_energy_counter_tells_its_power() -> None:
    ((rail, _, watts),) = Nvml(StandIn(energy_mj=None)).read()
    assert (rail, watts) == ("gpu0", 60.0)


def test_a_gpu_that_does_not_tell_its_power_has_no_rail() -> None:
    nvml = Nvml(StandIn(power_mw=None, energy_mj=None))
    assert (nvml.rails, nvml.read()) == ((), [])


def test_nvml_fills_in_what_the_files_do_not_tell() -> None:
    filled = with_nvml(Conditions(temperature_c={"cpu": 40.0}), Nvml(StandIn(reasons=0x24)))
    assert (filled.gpu_load, filled.gpu_mhz, filled.temperature_c) == (0.62, 1410.0, {"cpu": 40.0, "gpu": 51.0})
    assert filled.slowed_by == ("power cap", "thermal")


def test_being_idle_is_no_throttling_and_files_come_first() -> None:
    filled = with_nvml(Conditions(gpu_load=0.1, gpu_mhz=306.0, temperature_c={"gpu": 44.0}), Nvml(StandIn(reasons=0x1)))
    assert (filled.gpu_load, filled.gpu_mhz, filled.temperature_c, filled.slowed_by) == (0.1, 306.0, {"gpu": 44.0}, ())


def test_nvml_is_not_asked_for_an_emulated_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = StandIn()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    assert (find_nvml(), library.is_open) == ([], False)
    monkeypatch.delenv("EDGE_ROOT")
    (nvml,) = find_nvml()
    assert library.is_open
    nvml.close()
    assert not library.is_open


def test_a_machine_without_the_driver_has_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    library = StandIn()

    def refuse() -> None:
        raise NVMLError

    library.nvmlInit = refuse  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delenv("EDGE_ROOT", raising=False)
    assert find_nvml() == []


def test_a_counter_gives_even_power_and_starts_again_at_its_range() -> None:
    counter = EnergyCounter(range_j=100.0)
    assert counter.power(0, 90.0) is None
    assert counter.power(2_000_000_000, 98.0) == (0, 4.0)
    assert counter.power(3_000_000_000, 3.0) == (2_000_000_000, 5.0)
    assert counter.power(4_000_000_000, None) is None
    assert counter.power(5_000_000_000, 9.0) == (3_000_000_000, 3.0)


def test_a_processors_packages_are_read_and_their_parts_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    for number, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "psys")):
        domain = tmp_path / f"sys/class/powercap/intel-rapl:{number}"
        tree.write(domain / "name", name)
        tree.write(domain / "max_energy_range_uj", 262_143_328_850)
        tree.write(domain / "energy_uj", 1_000_000)
    (rapl,) = find_rapl()
    assert rapl.rails == ("package-0", "dram-0")
    assert rapl.read() == []
    time.sleep(0.05)
    tree.write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", 3_000_000)
    readings = rapl.read()
    (_, since_ns, watts), (_, at_ns, _) = (each for each in readings if each[0] == "package-0")
    assert watts is not None
    assert watts * (at_ns - since_ns) / 1e9 == pytest.approx(2.0)
    rapl.close()
