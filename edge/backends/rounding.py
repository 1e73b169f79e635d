"""Integer weights of a convolution, rounded so that their errors cancel on the input that the layer sees.

Rounding each number to the nearest level is best for inputs that vary independently; those of a network do not. Here
one number after the other is rounded, and those to come make good what that changed in the output, as far as the
inputs vary together on calibration frames. Last, the bias makes good what is left of a shift of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 127  # of int8 on each side of 0
MOST_INPUTS = 2304  # numbers that one output number depends on: the memory grows with its square, time with its cube
_PLACES = 512  # of each picture that are sampled
_DAMPING = 0.01  # in parts of the inputs' mean square: as if they had so much noise of their own

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its input."""

    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class IntegerWeights:
    """What a layer computes with once it is quantized."""

    levels: NDArray[np.int8]  # of the weights' shape, -127…127
    scales: NDArray[np.float32]  # of each output channel
    bias: NDArray[np.float32]

    @property
    def weights(self) -> NDArray[np.float32]:
        shape = (-1, *[1] * (self.levels.ndim - 1))
        return self.levels * self.scales.reshape(shape)


class Samples:
    """How a layer's inputs vary together, and the mean of its outputs: sums that do not grow with the frames."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._products: Floats | None = None  # groups × K × K
        self._inputs: Floats | None = None  # groups × K
        self._outputs: Floats | None = None  # D
        self._count = 0
        self._random = np.random.default_rng(0)

    def add(self, seen: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        """Take one picture: the input as quantization leaves it (1×C×H×W), and the FP32 output (1×D×H×W)."""
        rows, columns = wanted.shape[2:]
        places = self._random.choice(rows * columns, min(_PLACES, rows * columns), replace=False)
        patches = _patches(seen[0], self._window, places // columns, places % columns)
        outputs = wanted[0].reshape(wanted.shape[1], -1)[:, places]
        products = (patches.transpose(0, 2, 1) @ patches).astype(np.float64)
        inputs, sums = patches.sum(axis=1, dtype=np.float64), outputs.sum(axis=1, dtype=np.float64)
        if self._products is None or self._inputs is None or self._outputs is None:
            self._products, self._inputs, self._outputs = products, inputs, sums
        else:
            self._products += products
            self._inputs += inputs
            self._outputs += sums
        self._count += len(places)

    def round(self, weights: NDArray[np.float32]) -> IntegerWeights:
        """Return the integer weights of a layer, and its bias; `add` must have been called."""
        if self._products is None or self._inputs is None or self._outputs is None:
            raise RuntimeError("round before add")
        flat = weights.reshape(self._window.groups, weights.shape[0] // self._window.groups, -1).astype(np.float64)
        scales = _scales(flat)
        levels = np.stack([_round(*each) for each in zip(flat, scales, self._products / self._count, strict=True)])
        means = np.einsum("gdk,gk->gd", levels * scales[..., None], self._inputs / self._count)
        bias = self._outputs / self._count - means.ravel()
        return IntegerWeights(
            levels.reshape(weights.shape).astype(np.int8), scales.ravel().astype(np.float32), bias.astype(np.float32)
        )


def _patches(
    x: NDArray[np.float32], window: Window, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return what the kernel sees for these places of the output: groups × places × K."""
    top, left, bottom, right = window.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    (height, width), (down, along), (gap_y, gap_x) = window.kernel, window.strides, window.dilations
    y = rows[:, None] * down + np.arange(height) * gap_y
    x_ = columns[:, None] * along + np.arange(width) * gap_x
    seen = padded[:, y[:, :, None], x_[:, None, :]]  # C × places × height × width
    grouped = seen.reshape(window.groups, -1, *seen.shape[1:]).transpose(0, 2, 1, 3, 4)
    return grouped.reshape(window.groups, len(rows), -1)


def _scales(weights: Floats) -> Floats:
    """Return the size of a level for each output channel; 1 where all its weights are 0."""
    largest = np.abs(weights).max(axis=-1)
    return np.where(largest > 0, largest, LEVELS) / LEVELS


def _round(weights: Floats, scales: Floats, products: Floats) -> Floats:
    """Round the weights (D×K) of one group, input after input."""
    size = len(products)
    damped = products + np.eye(size) * (_DAMPING * np.trace(products) / size or 1.0)
    # Row k of this factor tells how the inputs after k make good for it, once those before it are fixed.
    repairs = np.linalg.cholesky(np.linalg.inv(damped)).T
    work, levels = weights.copy(), np.empty_like(weights)
    for place in range(size):
        levels[:, place] = np.clip(np.rint(work[:, place] / scales), -LEVELS, LEVELS)
        error = (work[:, place] - levels[:, place] * scales) / repairs[place, place]
        work[:, place:] -= error[:, None] * repairs[place, place:]
    return levels
