"""Samples as a benchmark takes them, of engines whose speed is known, and some that were recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.perf.bench.published import published_rows
from edge.perf.bench.row import Block

Rows = list[dict[str, Any]]
RECORDED = Path(__file__).parents[1] / "data" / "bench_runs" / "x86-2cores-shared.json"


def recorded(kind: str) -> list[list[Block]]:
    """Return runs of 8 blocks that were recorded: `equal`, or `slowed`."""
    return [[Block.from_json(each) for each in run] for run in json.loads(RECORDED.read_text(encoding="utf-8"))[kind]]


def engine_run(
    random: np.random.Generator,
    median_ms: float = 10.0,
    *,
    between_runs: float = 0.015,
    noise: float = 0.03,
    blocks: int = 8,
    queries: int = 60,
) -> list[Block]:
    """Return a run at batch 1 whose latencies follow one another closely, at a level that differs from run to run.

    `between_runs` and `noise` are relative standard deviations.
    """
    level_ms = median_ms * np.exp(random.normal(0, between_runs))
    follows = 0.9  # how much of a query's deviation the next one has
    deviation, run = random.normal(), []
    for _ in range(blocks):
        latency_ms = []
        for shock in random.normal(0, 1, queries):
            deviation = follows * deviation + np.sqrt(1 - follows**2) * shock
            latency_ms.append(float(level_ms * np.exp(noise * deviation)))
        run.append(block(latency_ms))
    return run


def block(latency_ms: Sequence[float], batch: int = 1) -> Block:
    """Return a block of queries one after the other."""
    return Block(tuple(latency_ms), batch * len(latency_ms), sum(latency_ms) / 1e3)


def steady(rates_per_s: Sequence[float], queries: int = 40) -> list[Block]:
    """Return blocks of these rates, all queries of a block alike."""
    return [block([1e3 / rate] * queries) for rate in rates_per_s]


def slower(run: Sequence[Block], times: float) -> list[Block]:
    """Return the same run of an engine that takes `times` as long."""
    return [Block(tuple(times * ms for ms in each.latency_ms), each.images, times * each.seconds) for each in run]


def row(samples: Sequence[Block] = (), **others: Any) -> dict[str, Any]:
    """Return a row with its key, its samples, and what else is said of it."""
    key = {"network": "AlexNet", "precision": "fp32", "batch": 1, "scenario": "single-stream", "lanes": 1}
    return (
        key | {"power_mode": None, "valid": True, "why": None, "samples": [each.to_json() for each in samples]} | others
    )


def tx2_rows() -> Rows:
    """Return the TX2's published rows, as if we had measured them."""
    tx2 = [each for each in published_rows() if each["device"] == "Jetson TX2"]
    return [row(steady([100.0] * 5, 3)) | dict(each) | {"latency_p99_ms": 1.1 * each["latency_ms"]} for each in tx2]


def tx2_run(rows: Rows) -> dict[str, Any]:
    """Return a run of these rows on a TX2, with a word that must not become part of a page."""
    return {"machine": {"board": {"name": "Jetson TX2"}, "cores": 6, "hostile": "<script>x()</script>"}, "rows": rows}
