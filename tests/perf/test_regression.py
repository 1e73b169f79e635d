from __future__ import annotations

import json
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.errors import ConfigError
from edge.perf.bench.baseline_file import check_same_machine, read_run
from edge.perf.bench.regression import compare, comparison_sheet
from edge.perf.bench.row import Block
from tests.support.bench_samples import engine_run, recorded, row, slower, steady
from tests.support.long_form import IS_LONG

QUIET = [100.0, 101.0, 99.0, 100.5, 99.5, 100.0]
DRAWS = 1000 if IS_LONG else 200


def _verdict(before: list[Block], now: list[Block], tolerance: float = 0.05) -> str:
    return compare([row(before)], [row(now)], tolerance).rows[0].verdict


def test_equal_engines_that_drift_between_runs_are_hardly_ever_flagged() -> None:
    random = np.random.default_rng(11)
    found = Counter(_verdict(engine_run(random), engine_run(random)) for _ in range(DRAWS))
    assert found["worse"] + found["better"] <= 0.05 * DRAWS
    assert found["same"] >= 0.9 * DRAWS


@pytest.mark.parametrize("blocks", [5, 10])
def test_a_tenth_slower_engine_is_caught(blocks: int) -> None:
    random = np.random.default_rng(12)
    found = Counter(
        _verdict(engine_run(random, blocks=blocks), engine_run(random, 11.0, blocks=blocks)) for _ in range(DRAWS)
    )
    assert found["worse"] >= 0.9 * DRAWS
    assert not found["better"]


def test_a_tenth_slower_engine_is_always_caught_where_runs_do_not_drift() -> None:
    random = np.random.default_rng(13)
    for _ in range(200):
        before, now = (engine_run(random, ms, between_runs=0.0, noise=0.02) for ms in (10.0, 11.0))
        assert _verdict(before, now) == "worse"
        assert _verdict(now, before) == "better"


def test_a_whole_grid_of_equal_rows_is_hardly_ever_flagged_for_its_noise() -> None:
    random = np.random.default_rng(14)

    def grid() -> list[dict[str, Any]]:
        return [row(engine_run(random, between_runs=0.0, noise=0.3, blocks=5), batch=each) for each in range(1, 25)]

    assert sum(compare(grid(), grid()).is_worse for _ in range(60 if IS_LONG else 20)) <= (3 if IS_LONG else 2)


def test_recorded_runs_beside_other_work_are_not_told_apart_but_a_third_slower_is() -> None:
    equal = recorded("equal")
    found = Counter(_verdict(before, now, 0.15) for before, now in permutations(equal, 2))
    assert found["worse"] <= 0.05 * found.total()
    slow = Counter(_verdict(run, slower(run, 4 / 3), 0.05) for run in equal)
    assert slow["worse"] == len(equal)


def test_recorded_runs_of_the_slowed_engine_are_worse_more_often_than_equal_ones() -> None:
    equal, slowed = recorded("equal"), recorded("slowed")
    of_equal = [_verdict(before, now) for before, now in permutations(equal, 2)].count("worse") / 56
    of_slowed = [_verdict(before, now) for before in equal for now in slowed].count("worse") / 32
    assert of_equal <= 0.1
    assert of_slowed >= 0.3


def test_the_ratio_and_its_interval_are_told() -> None:
    change = compare([row(steady(QUIET))], [row(slower(steady(QUIET), 1.25))]).rows[0].changes
    assert [each.figure for each in change] == ["images_per_s", "latency_ms"]
    assert change[0].ratio == pytest.approx(0.8)
    assert change[1].ratio == pytest.approx(1.25)
    assert all(each.low < each.ratio < each.high for each in change)
    assert change[0].high < 0.83


@pytest.mark.parametrize(("tolerance", "verdict"), [(0.05, "worse"), (0.15, "same")])
def test_the_tolerance_says_what_counts(tolerance: float, verdict: str) -> None:
    assert _verdict(steady(QUIET), slower(steady(QUIET), 1.1), tolerance) == verdict


def test_samples_that_vary_too_much_tell_nothing() -> None:
    wild = steady([100.0, 60.0, 150.0, 80.0, 120.0])
    found = compare([row(wild)], [row(wild[::-1])]).rows[0]
    assert found.verdict == "unclear"
    assert "vary too much; measure longer" in str(found.why)


def test_too_few_blocks_tell_nothing_however_far_apart() -> None:
    found = compare([row(steady(QUIET[:4]))], [row(slower(steady(QUIET), 3))])
    assert found.rows[0].verdict == "unclear"
    assert found.rows[0].why == (
        "the earlier run has 4, wanted at least 5 blocks of samples in each run; measure longer"
    )
    assert not found.is_worse


@pytest.mark.parametrize("samples", [None, []])
def test_rows_without_samples_tell_nothing(samples: Any) -> None:
    found = compare([row() | {"samples": samples}], [row(steady(QUIET))]).rows[0]
    assert (found.verdict, found.changes) == ("unclear", ())


def test_a_throttled_row_tells_nothing_of_the_software() -> None:
    found = compare([row(steady(QUIET))], [row(slower(steady(QUIET), 2), throttled=True)]).rows[0]
    assert found.verdict == "unclear"
    assert found.why == "this run throttled; cool the board and measure again"


def test_what_speaks_against_a_row_stands_beside_its_verdict() -> None:
    doubtful = row(steady(QUIET), valid=False, why="unstable: something")
    found = compare([doubtful], [row(slower(steady(QUIET), 2))]).rows[0]
    assert (found.verdict, found.why) == ("worse", "the earlier run: unstable: something")


def test_a_run_that_drifts_is_less_sure() -> None:
    falling = steady([110.0, 107.0, 103.0, 100.0, 97.0, 93.0, 90.0])
    level = steady([100.0, 101.0, 99.0, 100.0, 101.0, 99.0, 100.0])
    assert _verdict(level, slower(level, 1.1)) == "worse"
    assert _verdict(level, slower(falling, 1.1)) == "unclear"


def test_server_is_compared_by_its_rate_alone() -> None:
    before, now = row(steady(QUIET), scenario="server"), row(steady(QUIET), scenario="server")
    for block in now["samples"]:
        block["latency_ms"] = [3 * each for each in block["latency_ms"]]
    found = compare([before], [now]).rows[0]
    assert [each.figure for each in found.changes] == ["images_per_s"]
    assert found.verdict == "same"


def test_only_rows_of_the_same_setting_are_compared_and_the_others_are_named() -> None:
    before = [row(steady(QUIET), batch=1), row(steady(QUIET), batch=2, power_mode="MAXQ"), row(steady(QUIET), batch=8)]
    now = [row(steady(QUIET), batch=1), row(steady(QUIET), batch=2, power_mode="MAXN"), row(steady(QUIET), batch=4)]
    found = compare(before, now)
    assert [each.key.batch for each in found.rows] == [1]
    assert found.notes == (
        "AlexNet fp32 batch 2, single-stream, 1 lane, MAXN: not compared, the earlier run has it in mode MAXQ",
        "AlexNet fp32 batch 4, single-stream, 1 lane: not compared, missing in the earlier run",
        "AlexNet fp32 batch 2, single-stream, 1 lane, MAXQ: not compared, missing in this run",
        "AlexNet fp32 batch 8, single-stream, 1 lane: not compared, missing in this run",
    )


def test_the_comparison_is_told_as_json_and_as_a_table() -> None:
    found = compare([row(steady(QUIET))], [row(slower(steady(QUIET), 1.25))])
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["worse"] is True
    assert told["rows"][0]["network"] == "AlexNet"
    assert told["rows"][0]["changes"][0]["ratio"] == pytest.approx(0.8)
    sheet = comparison_sheet(found)
    assert sheet.lines[0][:2] == ("AlexNet fp32 batch 1, single-stream, 1 lane", "worse")
    assert str(sheet.lines[0][2]).startswith("×0.800 (0.7")


RATES = st.lists(st.floats(1.0, 1000.0), min_size=5, max_size=12)


@settings(deadline=None, max_examples=60)
@given(RATES, RATES, st.floats(0.0, 0.5))
def test_what_is_worse_one_way_is_better_the_other_way(before: list[float], now: list[float], tolerance: float) -> None:
    opposite = {"worse": "better", "better": "worse", "same": "same", "unclear": "unclear"}
    there = compare([row(steady(before, 3))], [row(steady(now, 3))], tolerance).rows[0]
    back = compare([row(steady(now, 3))], [row(steady(before, 3))], tolerance).rows[0]
    assert [opposite[each.verdict] for each in there.changes] == [each.verdict for each in back.changes]
    for each in there.changes:
        if each.verdict in ("worse", "better"):
            assert abs(np.log(each.ratio)) > np.log1p(tolerance)


@settings(deadline=None, max_examples=60)
@given(RATES, st.floats(0.0, 0.5))
def test_a_run_is_never_worse_than_itself(rates: list[float], tolerance: float) -> None:
    assert _verdict(steady(rates, 3), steady(rates, 3), tolerance) in ("same", "unclear")


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="wanted a fraction from 0 to below 1"):
        compare([], [], tolerance)


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "earlier.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_earlier_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = {"machine": {"cores": 6}, "rows": [row(steady(QUIET)), row(batch=2)], "partial": True}
    assert read_run(_written(tmp_path, json.dumps(run))) == run


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found no JSON"),
        ("[]", "the document: "),
        ('{"rows": []}', "machine: Field required"),
        ('{"machine": {}, "rows": [{"network": "AlexNet"}]}', "rows.0.precision: Field required"),
        (
            json.dumps({"machine": {}, "rows": [row() | {"samples": [{"latency_ms": [1], "images": 1}]}]}),
            "samples.0.seconds: Field",
        ),
        (json.dumps({"machine": {}, "rows": [row(), row()]}), "found AlexNet fp32 batch 1, single-stream, 1 lane more"),
    ],
)
def test_a_file_that_is_no_run_is_refused_with_where_and_what_to_do(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match="record one on this machine: edge bench") as refused:
        read_run(_written(tmp_path, text))
    assert told in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .No such file"):
        read_run(tmp_path / "nowhere.json")


def _machine(**others: Any) -> dict[str, Any]:
    board = {"name": "Jetson TX2", "sku": "p3310-1000", "cpu": None, "gpu": None, "l4t": "32.7.1"}
    return {"at": "2026-11-01T00:00:00Z", "board": board, "cores": 6, "versions": {"edge": "1.0"}} | others


def test_another_machine_is_refused() -> None:
    other = _machine(board=_machine()["board"] | {"name": "Jetson Orin Nano 8GB", "gpu": "ga10b"})
    with pytest.raises(ConfigError, match=r"another machine .board.name was Jetson TX2, is Jetson Orin Nano 8GB"):
        check_same_machine(_machine(), other)
    with pytest.raises(ConfigError, match="cores was 6, is 4"):
        check_same_machine(_machine(), _machine(cores=4))


def test_what_else_differs_is_told_but_not_the_time() -> None:
    now = _machine(at="2026-11-02T00:00:00Z", load_average=3.0, versions={"edge": "1.1", "onnxruntime": "1.20"})
    told = check_same_machine(_machine(), now)
    assert told == ["versions.edge was 1.0, is 1.1", "versions.onnxruntime was unknown, is 1.20"]
    assert check_same_machine(now, now) == []
