"""Seeded Gaussian weights, drawn in pieces, so that no more than one piece is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge.perf.bench.networks.layer_graph import Weight

_PIECE = 1 << 20  # numbers drawn at once
_ALIGNED_BYTES = 4096  # a page: where a runtime maps the file into memory instead of reading it
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Placed:
    """Where in the file of weights one of them lies."""

    weight: Weight
    number: int  # of all weights of the network: each is drawn from a stream of its own
    offset: int  # bytes

    @property
    def size_bytes(self) -> int:
        return prod(self.weight.shape) * _FLOAT_BYTES


def layout(weights: Sequence[Weight]) -> list[Placed]:
    """Return the places of those that lie in the file; rows of numbers, as biases, stand in the ONNX file itself."""
    found, end = [], 0
    for number, weight in enumerate(weights):
        if len(weight.shape) > 1:
            offset = -(-end // _ALIGNED_BYTES) * _ALIGNED_BYTES
            found.append(Placed(weight, number, offset))
            end = offset + found[-1].size_bytes
    return found


def size_bytes(places: Sequence[Placed]) -> int:
    """Return the size of the file."""
    return places[-1].offset + places[-1].size_bytes if places else 0


def write_weights(file: BinaryIO, places: Sequence[Placed], seed: int) -> None:
    """Write the file of weights; the same seed gives the same bytes."""
    for place in places:
        file.seek(place.offset)
        file.writelines(piece.data for piece in _pieces(place.weight, place.number, seed))


def drawn(weight: Weight, number: int, seed: int) -> NDArray[np.float32]:
    """Return one weight whole."""
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
