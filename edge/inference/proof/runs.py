"""Runs of a model on the pictures of a proof."""

from __future__ import annotations

from collections.abc import Sequence

from edge.core.manifest import InputSettings
from edge.core.records import Image
from edge.inference.backends.engine import Engine
from edge.inference.backends.input_tensors import served_inputs
from edge.inference.preprocess import Preprocessor
from edge.inference.proof.pictures import Sample, pictures


def run_pictures(engine: Engine, settings: InputSettings, shown: Image | None = None) -> Sequence[Sample]:
    """Run a model on each picture; raise EdgeError where it fails."""
    spec = served_inputs(engine.inputs, settings)[0]
    preprocessor = Preprocessor(spec, settings)
    samples = []
    with engine.make_context(1) as context:
        rows = context.inputs[spec.name]
        for kind, picture in pictures(preprocessor.input_px, shown):
            for row in rows:
                preprocessor.fill(picture, row)
            context.infer(engine.fixed_batch or 1)
            samples.append(Sample(kind, {name: array.copy() for name, array in context.outputs.items()}))
    return samples
