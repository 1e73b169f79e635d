"""One model on one engine: picture in, findings out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import EngineError, ImplausibleOutputError, ModelError
from edge.core.manifest import Manifest
from edge.core.records import EngineTimes, Findings, Geometry, Image
from edge.inference.backends.engine import Context, Engine
from edge.inference.backends.input_tensors import Feed, fill_values, per_picture_writers, served_inputs
from edge.inference.decode import Decoder
from edge.inference.decode.classifier import ClassReader
from edge.inference.decode.custom import CustomReader
from edge.inference.decode.guard import OutputGuard
from edge.inference.decode.reader import Reader
from edge.inference.infer import Inference, batch_limit
from edge.inference.preprocess import DevicePreprocessor, Preprocessor, target_settings
from edge.inference.proof.pictures import Kind, Sample, pictures
from edge.inference.proof.service_proof import decide, implausibility, prove

CHECKED_RUNS = 100  # of these, one has all its rows checked


class Predictor:
    """An engine with the preprocessing and the decoder of its model's manifest.

    Threads share it; each opens a session of its own.
    """

    def __init__(self, engine: Engine, manifest: Manifest, labels: Sequence[str], folder: Path) -> None:
        """Check the engine's tensors against the manifest; raise ModelError if they do not match.

        `folder` is the model's, which may contain a custom decoder.
        """
        self.engine = engine
        self.manifest = manifest
        self.labels = labels
        self.folder = folder
        self.input = served_inputs(engine.inputs, manifest.input)[0]
        self.input_px = self.make_preprocessor().input_px  # width, height
        self.target = target_settings(self.input, manifest.input)  # for engines that preprocess on the device
        self.decoder = Decoder(manifest, labels, engine.outputs, self.input_px, folder)
        _check_units(manifest, self.decoder.units)
        self._proving = threading.Lock()
        self._is_proven = False
        self.is_single = self.decoder.reader.is_single
        if self.is_single and (engine.fixed_batch or 1) > 1:
            found = ", ".join(f"{spec.name!r} {spec.shape_text}" for spec in engine.outputs)
            raise ModelError(
                f"outputs {found}: one has no axis for the {engine.fixed_batch} pictures of a batch; export the model "
                "with a batch of 1"
            )

    def batch_limit(self, max_batch: int) -> int:
        """Return the largest batch to form: 1 where an output has no axis for the pictures."""
        return 1 if self.is_single else batch_limit(self.engine, max_batch)

    @property
    def is_reference(self) -> bool:
        """True if this is the exported model, on the CPU."""
        return self.engine.label.startswith("ort-cpu/fp32/")

    def prove(self, session: PredictorSession, *, is_guarded: bool = True) -> None:
        """Run known pictures, once, and raise ModelError where the outputs refute the manifest's decoder.

        Without `is_guarded`, they only decide what a classifier's manifest leaves open.
        """
        reader = self.decoder.reader
        is_open = isinstance(reader, ClassReader) and reader.activation is None
        with self._proving:
            if self._is_proven or isinstance(reader, CustomReader) or not (is_guarded or is_open):
                return
            samples = []
            for kind, picture in pictures(self.input_px):
                # A network may fail where it finds nothing; its frames are then counted as errors.
                with contextlib.suppress(EngineError):
                    samples.append(session.sample(kind, picture))
            width, height = self.input_px
            options = {"input_width": width, "input_height": height, "label_count": len(self.labels)}
            if samples and not is_guarded and isinstance(reader, ClassReader):
                decide(reader, samples)
                return
            if samples:
                prove(reader, self.manifest.output.decoder, self.engine.outputs, samples, options)
            self._is_proven = True

    def with_engine(self, engine: Engine) -> Predictor:
        """Return a predictor of the same model on another engine; raise ModelError if that does not match."""
        return Predictor(engine, self.manifest, self.labels, self.folder)

    def session(self, max_batch: int = 1, *, is_guarded: bool = False) -> PredictorSession:
        """Return a session for batches of 1 to `max_batch` pictures.

        A guarded one, as whatever serves has, raises ModelError or ImplausibleOutputError for values that cannot be
        what the manifest says; to measure how far a variant is off, they are taken as they are.
        """
        return PredictorSession(self, max_batch, is_guarded=is_guarded)

    def inputs(self, images: Iterable[Image]) -> Iterator[Feed]:
        """Yield the model's inputs by name for each picture, new arrays each time, repeated to fill a fixed batch."""
        preprocessor, specs = self.make_preprocessor(), self.engine.inputs
        for image in images:
            rows = {spec.name: np.empty(spec.buffer_shape(1), spec.dtype) for spec in specs}
            geometry = preprocessor.fill(image, rows[self.input.name][0])
            fill_values(rows, specs, self.manifest.input)
            for write in per_picture_writers(rows, specs, self.manifest.input):
                write(0, geometry)
            yield {
                spec.name: np.repeat(rows[spec.name], self.engine.fixed_batch or 1, axis=0)
                if spec.has_batch
                else rows[spec.name][0]
                for spec in specs
            }

    def make_preprocessor(self) -> Preprocessor:
        """Make a preprocessor on the CPU, for one thread: it owns scratch memory."""
        return Preprocessor(self.input, self.manifest.input)


def _check_units(manifest: Manifest, units: str | None) -> None:
    """Refuse boxes that a model scales by the picture's size, and that are read as something else."""
    scaling = [name for name, value in manifest.input.values.items() if str(value).startswith("source-size")]
    resize = manifest.input.resize
    if scaling and (units == "input" or (units == "source" and resize != "stretch")):
        raise ModelError(
            f"[input] values: {scaling[0]}: found 'source-size' with units {units!r} and resize {resize!r}, wanted "
            'units = "source" in [output] and resize = "stretch": the model scales boxes by that size; or set '
            '"input-size", which goes with any resize'
        )


class PredictorSession:
    """One thread's use of a predictor: fill rows with pictures, run them, decode their outputs.

    A context manager, opened on the thread that uses it. Its buffers are allocated when it opens, and OVERWRITTEN by
    each run; what `predict` and `decode` return is owned by the caller.
    """

    def __init__(self, predictor: Predictor, max_batch: int, *, is_guarded: bool = False) -> None:
        self._predictor = predictor
        self._is_guarded = is_guarded
        self._max_batch = max_batch
        self._geometries: list[Geometry | None] = [None] * max_batch  # of the picture in each row
        self._inference: Inference | None = None  # None: not open
        self._opened = contextlib.ExitStack()
        self._runs = 0
        self.times = EngineTimes(0.0)  # of the last run

    def __enter__(self) -> PredictorSession:
        with contextlib.ExitStack() as opened:
            engine, target = self._predictor.engine, self._predictor.target
            context = opened.enter_context(engine.make_context(self._max_batch, target))
            self._fill = _make_fill(self._predictor, context)
            settings = self._predictor.manifest.input
            self._value_writers = per_picture_writers(context.inputs, engine.inputs, settings)
            self._inference = Inference(context, engine, self._max_batch, self._predictor.decoder.is_whole)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inference = None
        self._opened.close()

    def predict(self, image: Image, score_threshold: float | None = None) -> Findings:
        """Return the findings in a picture; `score_threshold` (0…1) replaces the manifest's."""
        self.fill(image)
        self.run()
        return self.decode(0, score_threshold)

    def predict_batch(self, images: Sequence[Image]) -> list[Findings]:
        """Return the findings in each of up to `max_batch` pictures, run together."""
        for row, image in enumerate(images):
            self.fill(image, row)
        self.run(len(images))
        return [self.decode(row) for row in range(len(images))]

    def warm_up(self) -> None:
        """Run each size that batches will have; a guarded session also proves the decoder on known pictures.

        Raises ModelError if an output does not have one row per picture, or its values are not those of the decoder.
        """
        self._open_inference().warm_up()
        self._predictor.prove(self, is_guarded=self._is_guarded)

    def fill(self, image: Image, row: int = 0) -> None:
        """Preprocess a picture into a row of the input."""
        self._open_inference()
        geometry = self._geometries[row] = self._fill(image, row)
        for write in self._value_writers:
            write(row, geometry)

    def source_px(self, row: int = 0) -> tuple[int, int]:
        """Return width and height of the picture in a row."""
        return self._geometry(row).source_px

    def run(self, batch_size: int = 1) -> EngineTimes:
        """Run the first `batch_size` rows; raise EngineError if the engine fails."""
        self.times = self._open_inference().run(batch_size)
        self._runs += 1
        return self.times

    def decode(self, row: int = 0, score_threshold: float | None = None) -> Findings:
        """Return the findings in a row of the last run, in pixels of its picture."""
        outputs = self._open_inference().outputs_of(row)
        decoder = self._predictor.decoder
        if not self._is_guarded:
            return decoder.decode(outputs, self._geometry(row), score_threshold)
        guard = OutputGuard()
        findings = decoder.decode(outputs, self._geometry(row), score_threshold, guard)
        reader = decoder.reader
        if not row and self._runs % CHECKED_RUNS == 0 and isinstance(reader, Reader):
            guard.reason = guard.reason or implausibility(reader, outputs)
        if guard.reason is not None:
            raise ImplausibleOutputError(
                f"the outputs of {self._predictor.engine.label} are implausible: {guard.reason}; "
                "check [output] in model.toml, and the engine"
            )
        return findings

    def sample(self, kind: Kind, image: Image) -> Sample:
        """Run a picture and return copies of all outputs, with the batch axis that they may have."""
        self.fill(image)
        self.run()
        outputs = self._open_inference().all_outputs()
        return Sample(kind, {name: array.copy() for name, array in outputs.items()})

    def copy_outputs(self, row: int = 0) -> dict[str, NDArray[Any]]:
        """Return copies of a row's raw outputs, without the batch axis."""
        outputs: Mapping[str, NDArray[Any]] = self._open_inference().outputs_of(row)
        return {name: array.copy() for name, array in outputs.items()}

    def _geometry(self, row: int) -> Geometry:
        geometry = self._geometries[row]
        if geometry is None:
            raise RuntimeError(f"row {row} holds no picture; call fill() and run() first")
        return geometry

    def _open_inference(self) -> Inference:
        if self._inference is None:
            raise RuntimeError("the predictor's session is not open; use it in a `with` statement")
        return self._inference


def _make_fill(predictor: Predictor, context: Context) -> Callable[[Image, int], Geometry]:
    """Return the function that fills a row of the context: on the engine's own device if it can, else on the CPU."""
    if context.pictures is not None:
        return DevicePreprocessor(context.pictures, predictor.input, predictor.manifest.input).fill
    rows, preprocessor = context.inputs[predictor.input.name], predictor.make_preprocessor()
    return lambda image, row: preprocessor.fill(image, rows[row])
