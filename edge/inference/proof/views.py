"""Views of a reading's parts in the outputs of a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.inference.decode.activations import as_float32
from edge.inference.decode.classifier import ClassReader
from edge.inference.decode.contract import Outputs
from edge.inference.decode.reader import Reader
from edge.inference.proof.pictures import Kind, Sample

Floats = NDArray[np.float32]
_LIKELY = 0.05


@dataclass(frozen=True)
class View:
    """Parts of one picture's outputs."""

    kind: Kind
    outputs: Outputs  # of one picture, as a reader takes them
    box: Floats  # N×4
    columns: Mapping[str, Floats]  # N×C for "scores", N for every other part
    live: NDArray[np.bool_]  # N: rows that hold something
    hidden_score: float  # the highest score of rows behind the count

    @property
    def rows(self) -> int:
        return len(self.box)


def stripped(sample: Sample, reader: Reader | ClassReader) -> Outputs:
    """Return a sample's outputs as a reader takes them: without the batch axis."""
    return {
        name: array if reader.is_whole(name) or not array.ndim else array[0] for name, array in sample.outputs.items()
    }


def view_of(sample: Sample, reader: Reader) -> View:
    """Return the parts of a reading in a sample."""
    return view_of_outputs(sample.kind, stripped(sample, reader), reader)


def view_of_outputs(kind: Kind, outputs: Outputs, reader: Reader) -> View:
    """Return the parts of a reading in one picture's outputs; rows behind the count are left out."""
    rows, hidden = slice(None), 0.0
    if "count" in reader.places:
        count = as_float32(np.asarray(outputs[reader.places["count"].output])).ravel()[:1]
        rows = slice(int(count[0]) if count.size and 0 <= count[0] < np.inf else 0)
        hidden = float(as_float32(reader.part(outputs, "score"))[rows.stop :].max(initial=0.0))
    box = as_float32(reader.part(outputs, "box"))[rows]
    columns: dict[str, Floats] = {}
    for part in ("objectness", "scores", "score", "class", "picture"):
        if part in reader.places and "kept" not in reader.places:
            values = as_float32(reader.part(outputs, part))[rows]
            columns[part] = values if part == "scores" else values[:, 0]
    live = np.asarray(box.any(axis=1))
    if "score" in columns:
        live &= columns["score"] > 0
    return View(kind, outputs, box, columns, live, hidden)


def together(views: Sequence[View], part: str) -> Floats:
    """Return one part of all views, one below another."""
    return np.concatenate([each.columns[part] for each in views])


def likely(views: Sequence[View]) -> NDArray[np.bool_]:
    """Return which rows of all views may be objects, by any of their scores."""
    found = [together(views, part) for part in ("objectness", "score", "scores") if part in views[0].columns]
    best = [each.max(axis=1) if each.ndim > 1 and each.size else each.reshape(len(each), -1)[:, 0] for each in found]
    return np.maximum.reduce(best) > _LIKELY if best else np.zeros(0, np.bool_)
