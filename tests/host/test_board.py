"""Identity of every emulated board, of a container, and of machines other than a Jetson."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.board import board_name, jetpack_of, manufacturer, part_number, read_board, release_of
from edge.host.packages import packages_of
from edge.host.paths import glob, inside, read_text
from tests.support.emulated_boards import boards, tree


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty root that stands for the machine's."""
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", boards.BOARDS)
@pytest.mark.parametrize("in_container", [False, True])
def test_each_board_is_identified(name: str, in_container: bool, empty: Path) -> None:  # noqa: FBT001 -- a column
    boards.build(name, empty)
    if in_container:
        tree.as_container(empty)
    expected, found = boards.BOARDS[name], read_board()
    assert found.is_jetson
    assert (found.name, found.module, found.sku, found.soc) == (
        expected.module,
        expected.module,
        expected.sku,
        expected.soc,
    )
    assert (found.l4t, found.jetpack) == (expected.l4t, expected.jetpack)
    assert expected.tensorrt[1].startswith(f"{found.tensorrt}-")
    assert expected.cuda[1].startswith(f"{found.cuda}-")
    assert found.model == expected.model == board_name()
    assert manufacturer() == "NVIDIA"
    assert f"JetPack {expected.jetpack}" in found.summary


def test_the_modules_own_memory_wins_over_the_device_tree(empty: Path) -> None:
    """A device tree may be of a module that is like this one."""
    boards.build("orin-nano", empty)
    eeprom = empty / "sys/bus/i2c/devices/0-0050/eeprom"
    eeprom.parent.mkdir()
    eeprom.write_bytes(b"\x01\x00\xfc\x00" * 5 + b"699-13767-0004-300 R.2\0" + b"\xff" * 200)
    assert (read_board().sku, read_board().module) == ("p3767-0004", "Jetson Orin Nano 4GB")


@pytest.mark.parametrize(
    ("specification", "memory_kb", "module"),
    [
        ("jetson-agx-thor-devkit", 60_000_000, "Jetson Thor T5000"),
        ("jetson-agx-thor-t4000", 60_000_000, "Jetson Thor T4000"),
        (None, 125_000_000, "Jetson Thor T5000"),
        (None, 60_000_000, None),
    ],
)
def test_a_thor_without_a_part_number(
    specification: str | None, memory_kb: int, module: str | None, empty: Path
) -> None:
    boards.build("thor", empty)
    (empty / "sys/firmware/devicetree/base/compatible").write_bytes(b"nvidia,tegra264\0")
    tree.write(empty / "proc/meminfo", f"MemTotal:       {memory_kb} kB")
    if specification:
        tree.write(empty / "etc/nv_boot_control.conf", f"TNSPEC 3834-301-0008-H.0-1-0-{specification}-")
    assert read_board().module == module


def test_another_machine_is_no_jetson(empty: Path) -> None:
    tree.write(empty / "proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz")
    tree.write(empty / "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA RTX A2000\nIRQ: 1")
    found = read_board()
    assert not found.is_jetson
    assert (found.cpu, found.gpu) == ("Some CPU @ 3 GHz", "NVIDIA RTX A2000")
    assert found.summary == "not a Jetson: CPU Some CPU @ 3 GHz, GPU NVIDIA RTX A2000"
    assert manufacturer() is None
    tree.write(empty / "sys/class/dmi/id/sys_vendor", "Some Vendor\n")
    assert manufacturer() == "Some Vendor"
    assert found.to_json() | {"is_jetson": False, "l4t": None, "jetpack": None, "module": None} == found.to_json()


def test_a_machine_that_tells_nothing(empty: Path) -> None:
    assert empty.is_dir()
    assert read_board().summary == "not a Jetson: CPU unknown, GPU none found"


@pytest.mark.parametrize(
    ("l4t", "jetpack"), [("38.2.1", "7.0"), ("36.5.0", "6.2.2"), ("35.6.2", "5.1.5"), ("36.9.9", None), (None, None)]
)
def test_the_jetpack_of_a_release_is_told_only_where_the_table_has_it(l4t: str | None, jetpack: str | None) -> None:
    assert jetpack_of(l4t) == jetpack


def test_a_release_file_with_a_second_line() -> None:
    text = "# R38 (release), REVISION: 4.0, GCID: 4, BOARD: generic, EABI: aarch64\n# KERNEL_VARIANT: oot\n"
    assert release_of(text) == "38.4.0"


@given(st.text())
def test_any_text_for_a_release_file_gives_a_release_or_none(text: str) -> None:
    assert release_of(text) is None or text.startswith("#") or "# R" in text


@given(st.binary())
def test_any_bytes_for_an_eeprom_give_a_part_number_or_none(raw: bytes) -> None:
    assert part_number(raw) is None or b"69" in raw


@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9+.-]+", fullmatch=True), st.from_regex(r"\d[\w.+~-]*", fullmatch=True))
)
def test_installed_packages_are_read_back(packages: dict[str, str]) -> None:
    stanzas = [
        f"Package: {name}\nStatus: install ok installed\nVersion: 1:{version}\nDescription: d\n .\n e\n"
        for name, version in packages.items()
    ]
    removed = "Package: Gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    assert packages_of("\n".join([*stanzas, removed])) == packages


def test_absolute_links_resolve_inside_the_root(empty: Path) -> None:
    tree.write(empty / "etc/real/file", "inside")
    (empty / "etc/link").symlink_to("/etc/real")
    (empty / "etc/up").symlink_to("../../../../etc/link/file")  # no way out, as with a real root
    assert read_text("/etc/link/file") == "inside"
    assert read_text("/etc/up") == "inside"
    assert glob("/etc/li*/f*") == ["/etc/link/file"]


def test_links_in_a_circle_are_an_error_and_no_hang(empty: Path) -> None:
    (empty / "a").symlink_to("/b")
    (empty / "b").symlink_to("/a")
    with pytest.raises(OSError, match="Too many levels"):
        inside("/a")
    assert read_text("/a") is None
