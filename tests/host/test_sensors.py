"""The sensors as the daemon uses them: on emulated boards, and with files that vanish, freeze, lie or hang."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edge.host.sensors import sensors as sensors_module
from edge.host.sensors.rail_sampler import STOP_S
from edge.host.sensors.sensors import Sensors
from edge.mqtt import schemas
from tests.support.emulated_boards import boards, tree

PATIENCE_S = 20.0
# What never waits for a sensor may still wait for a processor.
PROMPT_S = 0.5
COUNTER = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon9/oc3_event_cnt"


def eventually(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s, f"no {what} within {PATIENCE_S} s"
        time.sleep(0.02)


class Opened:
    """Sensors of a board that were started, and are stopped at the end."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._patch = patch
        self._open: list[Sensors] = []

    def __call__(self, board: str) -> Sensors:
        boards.build(board, self.root)
        return self.start()

    def start(self) -> Sensors:
        self._patch.setenv("EDGE_ROOT", str(self.root))
        sensors = Sensors()
        sensors.start()
        self._open.append(sensors)
        return sensors

    def close(self) -> None:
        for sensors in self._open:
            sensors.stop()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    opened = Opened(tmp_path / "board", monkeypatch)
    opened.root.mkdir()
    yield opened
    opened.close()


def read_for(sensors: Sensors, seconds: float = 0.5, **keys: Any) -> dict[str, Any]:
    """Read a period of its own."""
    sensors.read()
    time.sleep(seconds)
    return sensors.read(**keys).to_json()


def promptly(action: Callable[[], Any]) -> Any:
    start_s = time.monotonic()
    message = action()
    assert time.monotonic() - start_s < PROMPT_S
    return message


@pytest.mark.parametrize("name", boards.BOARDS)
def test_each_board_is_told_as_the_schema_says(name: str, opened: Opened) -> None:
    board = boards.BOARDS[name]
    sensors = opened(name)
    eventually(lambda: sensors.read().conditions.at_ns > 0, "conditions")
    message = read_for(sensors)
    schema = json.loads(schemas.read("telemetry"))["properties"]["board"]
    Draft202012Validator(schema).validate(json.loads(json.dumps(message, allow_nan=False)))
    assert (message["name"], message["power_rail"]) == (board.module, board.total)
    assert message["power_w"] == pytest.approx(board.watts(), abs=0.01)
    assert set(message["rails_w"]) == set(message["rails_j"]) == set(board.rails)
    assert message["energy_j"] == pytest.approx(message["power_w"] * 0.5, rel=0.5)
    if board.other_rails is None:
        assert message["power_w_alt"] is None
    else:
        assert message["power_w_alt"] == pytest.approx(board.watts(*board.other_rails), abs=0.01)
    assert message["gpu_load"] == (None if board.gpu_load is None else board.gpu_load / 1000)
    assert message["gpu_mhz"] == pytest.approx(board.gpu_hz / 1e6)
    assert message["emc_mhz"] == (None if board.emc_hz is None else pytest.approx(board.emc_hz / 1e6))
    assert message["fan_rpm"] == (board.fan or (0, None))[1]
    assert "pmic-die" not in message["temperature_c"]
    assert message["throttled"] is (False if board.has_counters else None)
    assert len(message["dla_active"]) == len(board.dlas or {})


def test_units_that_are_switched_off_have_no_temperature(opened: Opened) -> None:
    sensors = opened("orin-nano")
    eventually(lambda: sensors.read().conditions.at_ns > 0, "conditions")
    told_c = sensors.read().to_json()["temperature_c"]
    assert (told_c["cv0"], told_c["cv1"], told_c["gpu"]) == (None, None, 47.25)


def test_a_period_is_told_once(opened: Opened) -> None:
    sensors = opened("orin-nano")
    start_s = time.monotonic()
    joules = 0.0
    for _ in range(4):
        time.sleep(0.27)
        joules += sensors.read().energy_j or 0.0
    assert joules == pytest.approx(7.524 * (time.monotonic() - start_s), rel=0.05)


def test_idle_power_is_what_was_measured_without_images_in_this_mode(opened: Opened) -> None:
    sensors = opened("orin-nano")
    assert read_for(sensors, 0.3, images=0, power_mode="15W")["idle_w"] is None  # too short to say much
    idle = read_for(sensors, 1.1, images=0, power_mode="15W")
    assert idle["idle_w"] == pytest.approx(7.524)
    assert idle["images_per_s_per_w"] == 0.0
    tree.write(tree.value_files(opened.root, "VDD_IN")[1], 2500)
    busy = read_for(sensors, 1.1, images=110, power_mode="15W")
    assert busy["power_w"] > 12
    assert busy["idle_w"] == pytest.approx(7.524)
    assert busy["images_per_s_per_w"] == pytest.approx(110 / busy["energy_j"], rel=0.01)


def test_another_power_mode_has_another_idle_power(opened: Opened) -> None:
    sensors = opened("orin-nano")
    sensors.read(images=0, power_mode="15W")
    time.sleep(1.1)
    assert sensors.read(images=0, power_mode="15W").idle_w == pytest.approx(7.524)
    time.sleep(1.1)
    assert sensors.read(images=0, power_mode="7W").idle_w is None
    time.sleep(1.1)
    assert sensors.read(images=0, power_mode="7W").idle_w == pytest.approx(7.524)


def test_an_unknown_number_of_images_gives_no_idle_power(opened: Opened) -> None:
    message = read_for(opened("orin-nano"), 1.1)
    assert (message["idle_w"], message["images_per_s_per_w"]) == (None, None)


def test_an_over_current_event_is_told_once_as_throttling(opened: Opened) -> None:
    """Events before the start are not reported."""
    sensors = opened("orin-nano")
    eventually(lambda: sensors.read().throttled is False, "counters")
    tree.write(opened.root / COUNTER, 5)
    message = []
    eventually(lambda: message.append(sensors.read()) or message[-1].throttled is True, "throttling")  # type: ignore[func-returns-value]
    assert message[-1].over_current_events == 3
    assert message[-1].slowed_by == ("instantaneous over-current",)
    eventually(lambda: sensors.read().throttled is False, "end of throttling")
    assert sensors.read().over_current_events == 3


def test_a_cooling_device_that_acts_is_throttling_and_a_fan_is_none(opened: Opened) -> None:
    sensors = opened("orin-nano")
    eventually(lambda: sensors.latest().throttled is False, "cooling devices")
    number = boards.ORIN_BRAKES.index("gpu-throttle-alert")
    tree.write(opened.root / f"sys/devices/virtual/thermal/cooling_device{number}/cur_state", 1)
    eventually(lambda: sensors.latest().throttled is True, "throttling")
    assert sensors.read().to_json()["throttled_by"] == ["gpu-throttle-alert"]


def test_the_newest_power_is_there_at_any_moment(opened: Opened) -> None:
    sensors = opened("agx-orin")
    eventually(lambda: sensors.latest().power_w is not None, "power")
    assert sensors.latest().power_w == pytest.approx(boards.BOARDS["agx-orin"].watts(), abs=0.01)


def test_files_that_vanish_are_null_and_come_back(opened: Opened) -> None:
    sensors = opened("orin-nano")
    eventually(lambda: sensors.latest().power_w is not None, "power")
    chip, _ = tree.chip_folder(opened.root, "VDD_IN")
    shutil.copytree(chip, opened.root / "gone")
    shutil.rmtree(chip)
    eventually(lambda: sensors.latest().power_w is None, "loss of power")
    message = read_for(sensors)
    assert (message["power_w"], message["energy_j"], message["rails_w"]["VDD_SOC"]) == (None, None, None)
    assert message["gap_s"] == pytest.approx(0.5, abs=0.4)
    assert message["power_rail"] == "VDD_IN"
    (opened.root / "gone").rename(chip.with_name("hwmon12"))
    eventually(lambda: sensors.latest().power_w is not None, "power after the chip came back under another number")


def test_a_reading_that_freezes_is_told(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant load reads the same, too: so it stays a value, with a note."""
    monkeypatch.setattr(sensors_module, "UNCHANGED_S", 0.5)
    sensors = opened("orin-nano")
    current = tree.value_files(opened.root, "VDD_IN")[1]
    sensors.read()
    for ma in range(1500, 1512):
        tree.write(current, ma)
        time.sleep(0.1)
    message = sensors.read().to_json()
    assert set(message["rails_unchanged_s"]) == {"VDD_CPU_GPU_CV", "VDD_SOC"}
    assert message["power_w"] == pytest.approx(7.55, rel=0.02)


def test_garbage_is_null(opened: Opened) -> None:
    sensors = opened("orin-nano")
    for path in opened.root.glob("sys/devices/**/*_input"):
        path.write_bytes(b"\xff\x00?!")
    for path in opened.root.glob("sys/devices/**/temp"):
        path.write_bytes(b"\xff\x00?!")
    eventually(lambda: sensors.latest().power_w is None, "loss of power")
    eventually(lambda: set(sensors.read().to_json()["temperature_c"].values()) == {None}, "loss of temperatures")
    assert read_for(sensors)["power_w"] is None


def hang(path: Path) -> Callable[[], None]:
    """Make the next reading of a file wait; return what ends that."""
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)

    def end() -> None:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # whoever waits for a writer goes on
        path.with_name("new").write_bytes(content)
        path.with_name("new").replace(path)
        time.sleep(0.1)
        os.close(handle)

    return end


def test_a_bus_that_hangs_for_2_s_holds_up_nothing_else(opened: Opened) -> None:
    boards.build("agx-orin", opened.root)
    tree.write_monitor(opened.root, boards.BOARDS["tx2"].monitors[0], 20)  # on another bus
    sensors = opened.start()
    eventually(lambda: sensors.latest().power_w is not None, "power")
    sensors.read()
    end = hang(tree.value_files(opened.root, "VDD_CPU_CV")[1])
    start_s = time.monotonic()
    while time.monotonic() - start_s < 2.0:
        promptly(sensors.latest)
        time.sleep(0.05)
    message = promptly(sensors.read)
    assert promptly(sensors.latest).power_w is None
    assert 1.0 < message.to_json()["gap_s"] < 5.0
    assert message.period.rails["VDD_SYS_GPU"].gap_s < 0.5
    end()
    eventually(lambda: sensors.latest().power_w is not None, "power after the bus went on")


def test_a_zone_that_hangs_makes_temperatures_null_and_power_goes_on(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.host.sensors.condition_sampler.FRESH_NS", 1_500_000_000)
    sensors = opened("orin-nano")
    eventually(lambda: sensors.read().conditions.at_ns > 0, "conditions")
    end = hang(opened.root / "sys/devices/virtual/thermal/thermal_zone0/temp")
    eventually(lambda: promptly(sensors.read).to_json()["temperature_c"]["tj"] is None, "loss of temperatures")
    message = read_for(sensors)
    assert (message["throttled"], message["gpu_load"], message["over_current_events"]) == (None, None, None)
    assert message["power_w"] == pytest.approx(7.524)
    end()
    eventually(lambda: promptly(sensors.read).to_json()["temperature_c"]["tj"] == 49.5, "temperatures again")


def test_stopping_does_not_wait_for_a_bus_that_hangs(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    sensors = opened("orin-nano")
    eventually(lambda: sensors.latest().power_w is not None, "power")
    end = hang(tree.value_files(opened.root, "VDD_IN")[1])
    eventually(lambda: sensors.latest().power_w is None, "hanging")
    start_s = time.monotonic()
    sensors.stop()
    assert time.monotonic() - start_s < PROMPT_S + STOP_S
    assert "I2C bus 1 did not stop within" in caplog.text
    end()


def test_stopping_is_prompt_otherwise(opened: Opened) -> None:
    sensors = opened("tx2")
    promptly(sensors.stop)


def test_rails_whose_driver_loads_late_are_found(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors_module, "SEARCH_PERIOD_NS", 0)
    sensors = opened.start()
    assert sensors.read().to_json()["power_rail"] is None
    boards.build("orin-nano", opened.root)
    eventually(lambda: sensors.latest().power_w is not None, "power")
    assert sensors.read().to_json()["power_rail"] == "VDD_IN"


def test_a_machine_without_sensors_measures_only_itself(opened: Opened) -> None:
    message = read_for(opened.start(), 0.2, images=3, power_mode=None)
    for key in ("power_w", "energy_j", "gap_s", "power_rail", "idle_w", "images_per_s_per_w", "gpu_load", "throttled"):
        assert message[key] is None
    assert message["memory_mb"] > 1
