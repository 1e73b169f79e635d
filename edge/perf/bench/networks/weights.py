"""Seeded Gaussian weights, drawn in pieces so that only one piece is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge.perf.bench.networks.layer_graph import Weight

_PIECE = 1 << 20  # values drawn at a time
_ALIGNED_BYTES = 4096  # a page, for runtimes that map the file into memory
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Placed:
    """Position of one weight in the weights file."""

    weight: Weight
    number: int  # index among the network's weights, each drawn from a random stream of its own
    offset: int  # bytes

    @property
    def size_bytes(self) -> int:
        return prod(self.weight.shape) * _FLOAT_BYTES


def layout(weights: Sequence[Weight]) -> list[Placed]:
    """Lay out the weights file; one-dimensional weights, such as biases, are in the ONNX file itself."""
    found, end = [], 0
    for number, weight in enumerate(weights):
        if len(weight.shape) > 1:
            offset = -(-end // _ALIGNED_BYTES) * _ALIGNED_BYTES
            found.append(Placed(weight, number, offset))
            end = offset + found[-1].size_bytes
    return found


def size_bytes(places: Sequence[Placed]) -> int:
    """Return the size of the weights file."""
    return places[-1].offset + places[-1].size_bytes if places else 0


def write_weights(file: BinaryIO, places: Sequence[Placed], seed: int) -> None:
    """Write the weights file; the same seed gives the same bytes."""
    for place in places:
        file.seek(place.offset)
        file.writelines(piece.data for piece in _pieces(place.weight, place.number, seed))


def drawn(weight: Weight, number: int, seed: int) -> NDArray[np.float32]:
    """Draw one weight as a whole."""
    return np.concatenate(list(_pieces(weight, number, seed))).reshape(weight.shape)


def _pieces(weight: Weight, number: int, seed: int) -> Iterator[NDArray[np.float32]]:
    random = np.random.Generator(np.random.PCG64([seed, number]))
    left = prod(weight.shape)
    while left:
        piece = random.standard_normal(min(left, _PIECE), np.float32)
        piece *= np.float32(weight.std)
        piece += np.float32(weight.mean)
        left -= piece.size
        yield piece.astype("<f4", copy=False)
