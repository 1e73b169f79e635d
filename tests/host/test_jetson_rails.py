"""Power monitors: the rails of each board, and readings from files that misbehave."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from edge.host.sensors import jetson_rails as rails
from edge.host.sensors.jetson_rails import find_buses, find_channels
from tests.support.emulated_boards import boards, tree


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty root that stands for the machine's; lost rails are looked for at once."""
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    monkeypatch.setattr(rails, "SEARCH_PERIOD_NS", 0)
    return tmp_path


def read_all() -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for bus in find_buses():
        found |= {name: watts for name, _, watts in bus.read()}
        bus.close()
    return found


@pytest.mark.parametrize("name", boards.BOARDS)
def test_each_boards_rails_are_found_and_read(name: str, folder: Path) -> None:
    """Neither unused nor disabled channels, nor the chip's own sum, which would count everything twice."""
    board = boards.BOARDS[name]
    boards.build(name, folder)
    found = read_all()
    assert sorted(found) == sorted(board.rails)
    for rail, watts in found.items():
        assert watts == pytest.approx(board.watts(rail), abs=1e-3)


def test_two_chips_with_one_label_are_told_apart(folder: Path) -> None:
    boards.build("agx-xavier", folder)
    chip, number = tree.chip_folder(folder, "CV")
    tree.write(chip / f"rail_name_{number}", "GPU")
    assert {"GPU@1-0040", "GPU@1-0041"} <= {channel.name for channel in find_channels()}


@pytest.mark.parametrize("place", ["sys/bus/i2c/drivers", "sys/bus/i2c"])
def test_chips_are_found_by_name_where_a_tree_lacks_the_drivers_folder(place: str, folder: Path) -> None:
    boards.build("orin-nano", folder)
    shutil.rmtree(folder / place)
    assert set(read_all()) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def test_a_chip_that_gets_another_number_while_it_is_read_is_found_again(folder: Path) -> None:
    boards.build("orin-nano", folder)
    (bus,) = find_buses()
    before = bus.read()
    chip, _ = tree.chip_folder(folder, "VDD_IN")
    shutil.copytree(chip, chip.with_name("hwmon7"))
    shutil.rmtree(chip)
    lost = bus.read()
    found = bus.read()
    assert [watts for _, _, watts in lost] == [None, None, None]
    assert [watts for _, _, watts in found] == [watts for _, _, watts in before]


def test_a_number_that_another_chip_took_over_is_not_read_as_the_rail(folder: Path) -> None:
    boards.build("orin-nano", folder)
    shutil.rmtree(folder / "sys/bus/i2c")  # found by its number in the class alone
    (bus,) = find_buses()
    assert None not in {watts for _, _, watts in bus.read()}
    chip, number = tree.chip_folder(folder, "VDD_IN")
    shutil.copytree(chip, folder / "other")
    shutil.rmtree(chip)
    (folder / "other").rename(chip)
    tree.write(chip / f"in{number}_label", "OTHER")
    bus.read()
    assert {name: watts for name, _, watts in bus.read()}["VDD_IN"] is None


@pytest.mark.parametrize(
    "content", ["", "\n", "garbage\n", "5016 5016\n", "nan\n", "1e999\n", "\0\0\0\0", "-5016\n", "99999999\n"]
)
def test_what_is_no_reading_is_missing(content: str, folder: Path) -> None:
    boards.build("orin-nano", folder)
    (bus,) = find_buses()
    bus.read()
    voltage, _ = tree.value_files(folder, "VDD_IN")
    voltage.write_text(content, encoding="utf-8")
    readings = {name: watts for name, _, watts in bus.read()}
    assert readings["VDD_IN"] is None
    assert readings["VDD_SOC"] == pytest.approx(1.5048)
    tree.write(voltage, 5000)
    assert {name: watts for name, _, watts in bus.read()}["VDD_IN"] == pytest.approx(7.5)


def test_a_half_written_number_is_missing(folder: Path) -> None:
    boards.build("orin-nano", folder)
    (bus,) = find_buses()
    bus.read()
    voltage, _ = tree.value_files(folder, "VDD_IN")
    voltage.write_text("50", encoding="utf-8")
    assert {name: watts for name, _, watts in bus.read()}["VDD_IN"] is None


def test_a_little_below_zero_is_zero(folder: Path) -> None:
    """A gated rail's amplifier has an offset; -392 mW was seen."""
    boards.build("thor", folder)
    _, current = tree.value_files(folder, "VDD_GPU")
    tree.write(current, -33)
    assert read_all()["VDD_GPU"] == 0.0


def test_a_unit_behind_the_number_is_no_part_of_it(folder: Path) -> None:
    boards.build("orin-nano", folder)
    voltage, current = tree.value_files(folder, "VDD_IN")
    tree.write(voltage, "5000 mv")
    tree.write(current, "1500 ma")
    assert read_all()["VDD_IN"] == pytest.approx(7.5)


def test_a_rail_whose_files_are_replaced_all_the_time_is_read_each_time(folder: Path) -> None:
    boards.build("orin-nano", folder)
    (bus,) = find_buses()
    voltage, current = tree.value_files(folder, "VDD_IN")
    tree.write(voltage, 5000)
    for ma in range(1000, 1020):
        tree.write(current.with_name("new"), ma)
        current.with_name("new").replace(current)
        assert {name: watts for name, _, watts in bus.read()}["VDD_IN"] == pytest.approx(ma * 5 / 1000)


def test_power_is_stamped_in_the_middle_of_its_reading(folder: Path) -> None:
    boards.build("orin-nano", folder)
    (bus,) = find_buses()
    bus.read()
    before_ns = time.monotonic_ns()
    stamps = [at_ns for _, at_ns, _ in bus.read()]
    assert before_ns < stamps[0] < stamps[1] < stamps[2] < time.monotonic_ns()
