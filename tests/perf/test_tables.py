from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.perf.bench.published import published_rows
from edge.perf.bench.speedup import speedup_sheet, speedups
from edge.perf.bench.tables import PUBLISHED_COLUMNS, Sheet, number, rows_sheet, to_csv, to_markdown
from tests.support.bench_samples import row, steady

MEASURED: dict[str, Any] = {
    "device": "bench-01",
    "images_per_s": 1234.5678,
    "latency_ms": 0.81,
    "power_w": None,
    "spread": 0.01,
}


def _read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_begins_with_the_published_columns_and_leaves_raw_samples_out() -> None:
    text = to_csv([row(steady([100.0]), **MEASURED, rails_w={"VDD_IN": 5.5})])
    heads = text.splitlines()[0].split(",")
    assert tuple(heads[: len(PUBLISHED_COLUMNS)]) == PUBLISHED_COLUMNS
    assert "samples" not in heads
    (read,) = _read(text)
    assert read["images_per_s"] == "1234.5678"
    assert read["power_w"] == ""
    assert read["rails_w"] == '{"VDD_IN": 5.5}'
    assert read["valid"] == "true"


def test_published_rows_come_through_csv_as_they_are() -> None:
    for before, read in zip(published_rows(), _read(to_csv(published_rows())), strict=True):
        for key, value in before.items():
            assert read[key] == "" if value is None else type(value)(read[key]) == value


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_comes_through_csv(texts: list[str]) -> None:
    clean = [text.replace("\r", " ").replace("\0", " ") for text in texts]
    assert [each["why"] for each in _read(to_csv([row(why=text) for text in clean]))] == clean


def test_markdown_has_a_line_a_row_and_a_dash_for_what_was_not_measured() -> None:
    text = to_markdown(rows_sheet([row(**MEASURED)], "On bench-01"))
    assert text.splitlines() == [
        "**On bench-01**",
        "",
        "| network | precision | batch | scenario | lanes | images/s | p50 ms | W | images/s/W | spread |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | --- | --- | ---: |",
        "| AlexNet | fp32 | 1 | single-stream | 1 | 1235 | 0.81 | \N{EN DASH} | \N{EN DASH} | 0.01 |",
    ]


@given(st.text(max_size=40))
def test_no_text_breaks_a_markdown_table(text: str) -> None:
    told = to_markdown(Sheet("t", ("a", "b"), ((text, 1),)))
    assert told.count("\n") == 5
    assert told.split("\n")[4].replace("\\|", "").count("|") == 3


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "0"), (0.000123456, "0.0001235"), (7.0, "7"), (12.3456, "12.35"), (999.96, "1000"), (123456.7, "123457")],
)
def test_numbers_have_four_digits_and_all_before_the_point(value: float, told: str) -> None:
    assert number(value) == told


def _rated(precision: str, images_per_s: float | None, **others: Any) -> dict[str, Any]:
    return row(precision=precision, images_per_s=images_per_s, **others)


def test_speedups_are_relative_to_fp32_at_the_same_batch() -> None:
    rows = [
        _rated("fp32", 10.0),
        _rated("fp16", 25.0),
        _rated("int8", 37.0),
        _rated("fp32", 40.0, batch=3),
        _rated("int8", 100.0, batch=3),
    ]
    found = {place.batch: by_precision for place, by_precision in speedups(rows).items()}
    assert found == {1: {"fp32": 1.0, "fp16": 2.5, "int8": 3.7}, 3: {"fp32": 1.0, "int8": 2.5}}
    sheet = speedup_sheet(rows)
    assert sheet.heads == ("network", "batch", "fp32", "fp16", "int8")
    assert sheet.lines == (("AlexNet", 1, "1.00×", "2.50×", "3.70×"), ("AlexNet", 3, "1.00×", None, "2.50×"))


def test_without_fp32_there_is_no_speedup() -> None:
    assert list(speedups([_rated("int8", 10.0), _rated("fp32", 5.0, batch=2)]).values()) == [
        {"int8": None},
        {"fp32": 1.0},
    ]
    assert list(speedups([_rated("int8", 10.0), _rated("fp32", None)]).values()) == [{"int8": None, "fp32": None}]


def test_modes_are_told_apart_where_there_are_several() -> None:
    rows = [_rated("fp32", 10.0, power_mode="MAXQ"), _rated("fp32", 20.0, power_mode="MAXN")]
    assert speedup_sheet(rows).heads == ("network", "batch", "power_mode", "fp32")
