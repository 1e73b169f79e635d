"""Least energy for a day known in advance: dynamic programming over modes and the time since a switch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def best_path(cost: Array, switched_cost: Array, dwell: int) -> NDArray[np.int64]:
    """Return the cheapest sequence of modes, steps×lanes.

    `cost`, steps×modes×lanes, is the cost of a step in a mode; `switched_cost` is that of a step that starts with a
    switch into the mode. After a switch, the mode is kept for at least `dwell` steps; the first mode is free.
    """
    steps, modes, lanes = cost.shape
    # Value of a mode by the steps since the switch into it; at the last of them another switch is allowed.
    value = np.zeros((modes, dwell + 1, lanes))
    goes = np.zeros((steps, modes, lanes), np.int8)
    for step in range(steps - 1, -1, -1):
        arrived = switched_cost[step] + value[:, min(1, dwell)]
        stayed = cost[step] + value[:, dwell]
        others = np.stack([_of_others(arrived, mode) for mode in range(modes)])
        leaves = others[:, 0] < stayed
        goes[step] = np.where(leaves, others[:, 1], np.arange(modes)[:, None])
        value[:, :dwell] = cost[step][:, None] + value[:, 1:]
        value[:, dwell] = np.where(leaves, others[:, 0], stayed)
    return _follow(goes, np.argmin(value[:, dwell], axis=0), dwell)


def _of_others(arrived: Array, mode: int) -> Array:
    """Return the lowest value of the other modes, and its mode: 2×lanes."""
    others = arrived.copy()
    others[mode] = np.inf
    return np.stack([others.min(axis=0), others.argmin(axis=0)])


def _follow(goes: NDArray[np.int8], mode: NDArray[np.int64], dwell: int) -> NDArray[np.int64]:
    steps, _, lanes = goes.shape
    path = np.empty((steps, lanes), np.int64)
    age = np.full(lanes, dwell)
    for step in range(steps):
        to = np.where(age >= dwell, goes[step, mode, np.arange(lanes)], mode)
        age = np.where(to != mode, 1, np.minimum(age + 1, dwell))
        mode = path[step] = to
    return path
