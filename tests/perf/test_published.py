from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from edge.core.errors import ConfigError
from edge.perf.bench.published import paired, published_device, published_rows, published_sheet
from edge.perf.bench.tables import cell_text
from tests.support.bench_samples import row


def _ours(**others: Any) -> dict[str, Any]:
    figures = {"images_per_s": 238.0, "latency_ms": 4.2, "images_per_s_per_w": None}
    return row(device="bench-01", **figures | others)


def test_all_published_rows_are_there_with_what_was_empty_as_none() -> None:
    counts = Counter((each["device"], each["power_mode"], each["precision"]) for each in published_rows())
    assert counts == {
        ("Tesla V100", "default", "fp16"): 18,
        ("Tesla P4", "default", "int8"): 18,
        ("Jetson TX2", "max-q", "fp16"): 24,
        ("Jetson TX2", "max-p", "fp16"): 24,
        ("Jetson TX1", "default", "fp16"): 24,
    }
    tx1 = next(each for each in published_rows() if each["device"] == "Jetson TX1" and each["batch"] == 128)
    assert (tx1["network"], tx1["images_per_s_per_w"], tx1["latency_ms"]) == ("AlexNet", None, 284.9)


def test_published_figures_hang_together() -> None:
    """A figure that was mistyped would differ; of the source's own some are rounded, and one latency is odd."""
    odd = []
    for each in published_rows():
        if (
            each["images_per_s_per_w"]
            and abs(each["images_per_s"] / each["power_w"] / each["images_per_s_per_w"] - 1) > 0.05
        ):
            odd.append((each["device"], each["network"], each["batch"], "watts"))
        if abs(each["images_per_s"] * each["latency_ms"] / 1e3 / each["batch"] - 1) > 0.05:
            odd.append((each["device"], each["network"], each["batch"], "latency"))
    rounded = [("Tesla V100", "VGG-19", 1, "watts"), ("Tesla V100", "VGG-19", 1, "latency")]
    assert odd == [*rounded, ("Jetson TX1", "VGG-19", 128, "latency")]


@pytest.mark.parametrize(
    ("board", "device"),
    [
        ("tx2", "Jetson TX2"),
        ("Jetson TX2", "Jetson TX2"),
        ("NVIDIA Jetson TX2 Developer Kit", "Jetson TX2"),
        ("jetson-tx1", "Jetson TX1"),
        ("V100", "Tesla V100"),
    ],
)
def test_a_board_is_known_by_any_of_its_names(board: str, device: str) -> None:
    assert published_device(board) == device


@pytest.mark.parametrize("board", ["Jetson TX2 NX", "Jetson Orin Nano 8GB", "x86_64", ""])
def test_a_board_without_published_rows_is_told_with_those_that_have_some(board: str) -> None:
    with pytest.raises(ConfigError, match="choose one: --board tx1, tx2, p4, v100"):
        published_device(board)


def test_a_row_stands_beside_the_published_one_with_ratios() -> None:
    (pair,) = paired([_ours()], "tx2", "max-q")
    assert pair.published["images_per_s"] == 119
    assert pair.ratios["images_per_s"] == pytest.approx(2.0)
    assert pair.ratios["latency_ms"] == pytest.approx(0.5)
    assert pair.ratios["images_per_s_per_w"] is None
    assert pair.to_json()["ours"]["device"] == "bench-01"


@pytest.mark.parametrize(
    ("own_mode", "asked", "modes"),
    [
        (None, None, ["max-q", "max-p"]),
        ("MAXQ", None, ["max-q"]),
        ("MAXP_CORE_ARM", None, ["max-p"]),
        ("MAXN", None, ["max-q", "max-p"]),
        ("MAXQ", "max-p", ["max-p"]),
        (None, "MAXP_CORE_ARM", ["max-p"]),
    ],
)
def test_the_mode_that_is_asked_for_goes_before_the_rows_own(own_mode: Any, asked: Any, modes: list[str]) -> None:
    pairs = paired([_ours(power_mode=own_mode)], "tx2", asked)
    assert [pair.published["power_mode"] for pair in pairs] == modes


def test_a_mode_that_was_not_published_is_refused_with_those_that_were() -> None:
    with pytest.raises(ConfigError, match="Jetson TX2 was published in max-q, max-p; choose one"):
        paired([_ours()], "tx2", "15W")


def test_networks_are_found_however_they_are_written_and_others_have_no_pair() -> None:
    for name in ("ResNet-50", "resnet50", "resnet_50"):
        assert len(paired([_ours(network=name)], "tx1")) == 1
    assert paired([_ours(network="resnet-152"), _ours(batch=3)], "tx2") == []


def test_the_table_says_in_which_precision_and_where_watts_were_measured() -> None:
    sheet = published_sheet(paired([_ours()], "tx2", "max-q"))
    assert "DRAM, upstream of the regulators" in sheet.title
    assert sheet.lines[0] == (
        "AlexNet",
        1,
        "fp32",
        "max-q fp16",
        "238 / 119 = 2.00×",
        "4.2 / 8.4 = 0.50×",
        f"{cell_text(None)} / 18",
    )
    assert published_sheet([]).lines == ()
