"""Verification of an INT8 or FP16 variant against FP32: both run over the same frames, as they would serve.

The result goes to precision.json, by which the daemon admits the variant or refuses it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.core.errors import ConfigError
from edge.core.records import Findings, Image
from edge.inference.admission import MIN_FRAMES, PrecisionEntry, record, rejection_reason
from edge.inference.backends.engine import Engine
from edge.inference.engine_provider import EngineProvider
from edge.inference.model_variants import ModelFiles, Precision
from edge.inference.predictor import Predictor
from edge.precision.agreement import disagreement
from edge.precision.comparison import Comparison, ScoredFindings, entry_of
from edge.precision.frames import LabelledFrame
from edge.precision.ground_truth import Label, accuracy

WORST_KEPT = 6  # frames
INT8_PICTURES = 32  # with which an INT8 engine is verified before it first serves: its errors have to be measured
# Boxes down to this score count for mean average precision, whose curve goes on below the model's own threshold.
SCORE_FLOOR = 0.01


@dataclass(frozen=True)
class VerifyRequest:
    """The variant to verify, and the one taken as the truth."""

    folder: Path  # the model's
    precision: Precision
    against: Precision
    has_labels: bool  # of the frames
    state_dir: Path


@dataclass(frozen=True)
class DisagreeingFrame:
    """A frame on which two engines disagree."""

    name: str
    disagreement: float
    picture: Image
    reference: Findings
    candidate: Findings


@dataclass
class VerificationTally:
    """Findings of both variants in the frames so far."""

    disagreements: list[float] = field(default_factory=list)
    worst: list[DisagreeingFrame] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    found: tuple[list[Findings], list[Findings]] = field(default_factory=lambda: ([], []))  # of the labelled frames

    def add(self, frame: LabelledFrame, reference: ScoredFindings, candidate: ScoredFindings) -> None:
        """Count a frame."""
        distance = disagreement(reference.findings, candidate.findings)
        self.disagreements.append(distance)
        if len(self.worst) < WORST_KEPT or distance > self.worst[-1].disagreement:
            worst = DisagreeingFrame(frame.name, distance, frame.picture, reference.findings, candidate.findings)
            self.worst = sorted([*self.worst, worst], key=lambda each: -each.disagreement)[:WORST_KEPT]
        if frame.label is not None:
            self.labels.append(frame.label)
            for findings, answer in zip(self.found, (reference, candidate), strict=True):
                findings.append(answer.findings if answer.unsure is None else answer.unsure)


@dataclass(frozen=True)
class VerificationResult:
    """Measurement of a variant, and the verdict on it."""

    model: str
    entry: PrecisionEntry
    reason: str | None  # why it is not good enough; None: it is
    min_agreement: float
    kept: Path | None  # precision.json; None: too few frames to replace an earlier proof
    labels: Sequence[str]
    tally: VerificationTally

    def truth_difference(self) -> dict[str, float] | None:
        """Return the variant's accuracy minus that of the truth, by the labels; None without labels."""
        entry = self.entry
        if entry.truth is None:
            return None
        variant, against = entry.truth[entry.precision], entry.truth[entry.against]
        return {name: variant[name] - against[name] for name in variant}

    def to_json(self) -> dict[str, Any]:
        """Return the command's document; `precision` in it is a figure, and the variant's precision is `form`."""
        entry = self.entry.model_dump()
        measured = entry.pop("measured")
        return {
            "model": self.model,
            "form": entry.pop("precision"),
            "admitted": self.reason is None,
            "reason": self.reason,
            "min_agreement": self.min_agreement,
            **measured,
            **entry,
            "truth_difference": self.truth_difference(),
            "precision_json": str(self.kept) if self.kept else None,
        }


def check_fp16_ranges(predictor: Predictor, provider: EngineProvider, frames: Iterable[LabelledFrame]) -> None:
    """Find the values that exceed FP16 on these frames, so that the FP16 variant keeps them in FP32."""
    provider.check_ranges(predictor.inputs(frame.picture for frame in frames))


def verify(
    request: VerifyRequest, predictor: Predictor, provider: EngineProvider, frames: Iterable[LabelledFrame]
) -> VerificationResult:
    """Run both variants over the frames on the backend of this machine, and record the measurement.

    `predictor` is of the model, on any engine; `provider` opens the engines of its variants.
    """
    manifest = predictor.manifest
    floor = SCORE_FLOOR if request.has_labels and manifest.task == "detect" else None
    tally = VerificationTally()
    provider = provider.with_settings(backend="auto", device="auto")
    with _both_opened(request, predictor, provider) as (against, candidate):
        with Comparison(against.predictor, candidate.predictor, floor) as comparison:
            for frame in frames:
                tally.add(frame, *comparison.compare(frame.picture))
            measured = comparison.finish()
        truth = _truth(request, tally)
        entry = entry_of(
            provider.onnx, candidate.files, candidate.file, provider.runtime, request.against, measured, truth
        )
    # An engine file serves as it is: its measurement admits nothing.
    is_proof = entry.frames >= MIN_FRAMES and request.precision != "engine"
    kept = record(entry, provider.onnx, request.state_dir) if is_proof else None
    bound = manifest.min_agreement
    name = request.folder.resolve().name
    return VerificationResult(name, entry, rejection_reason(entry, bound), bound, kept, predictor.labels, tally)


def verify_int8(
    predictor: Predictor, provider: EngineProvider, engine: Engine, pictures: Iterable[Image]
) -> PrecisionEntry:
    """Measure how well an INT8 engine agrees with the exported model on the first pictures, and record that.

    `predictor` is of the model, on any engine. Raises ConfigError where the pictures prove nothing.
    """
    with (
        contextlib.closing(provider.open_reference()) as reference,
        Comparison(predictor.with_engine(reference), predictor.with_engine(engine)) as comparison,
    ):
        for picture in itertools.islice(pictures, INT8_PICTURES):
            comparison.compare(picture)
        measured = comparison.finish()
    if measured.agreement.frames < MIN_FRAMES:
        raise ConfigError(f"found {measured.agreement.frames} pictures, wanted at least {MIN_FRAMES}")
    entry = entry_of(provider.onnx, *provider.variant("int8"), provider.runtime, "fp32", measured)
    record(entry, provider.onnx, provider.environment.state_dir)
    return entry


@dataclass(frozen=True)
class _OpenedVariant:
    """One of the two variants, ready to run."""

    files: ModelFiles
    file: Path
    predictor: Predictor


@contextlib.contextmanager
def _both_opened(
    request: VerifyRequest, predictor: Predictor, provider: EngineProvider
) -> Iterator[tuple[_OpenedVariant, _OpenedVariant]]:
    """Open the variant taken as the truth, and the one to verify."""
    with contextlib.ExitStack() as opened:

        def opened_side(precision: Precision) -> _OpenedVariant:
            files, file = provider.variant(precision)
            engine = provider.open_or_build(precision)
            opened.callback(engine.close)
            return _OpenedVariant(files, file, predictor.with_engine(engine))

        yield opened_side(request.against), opened_side(request.precision)


def _truth(request: VerifyRequest, tally: VerificationTally) -> dict[str, dict[str, float]] | None:
    """Return the accuracy of each variant by the labels; None where there are none."""
    if not tally.labels:
        return None
    names = (request.against, request.precision)
    return {name: accuracy(tally.labels, found) for name, found in zip(names, tally.found, strict=True)}
