"""Agreement of two engines on the same pictures: in findings, in raw outputs, and how long each takes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.core.clock import utc_text, wall_ns
from edge.core.errors import ConfigError
from edge.core.records import Findings, Image
from edge.inference.admission import PrecisionEntry
from edge.inference.model_variants import ModelFiles, Precision
from edge.inference.predictor import Predictor
from edge.inference.runtime_identity import RuntimeIdentity
from edge.precision.agreement import Agreement, OutputError, Tally, agreement, output_error

LEAST_TIMES = 32  # inferences of each engine, for a median that a moment's load does not make
# The mean error of raw outputs, in parts of their spread. FP16 keeps 11 bits, so a sound engine is far below it.
MAX_MEAN_ERROR = 0.05


@dataclass(frozen=True)
class ScoredFindings:
    """Findings of an engine in a picture."""

    findings: Findings
    unsure: Findings | None  # down to the floor of scores, where one was given


@dataclass(frozen=True)
class ComparisonResult:
    """Outcome of a comparison."""

    agreement: Agreement
    data_sha256: str  # of the pictures
    reference_ms: float  # median of an inference of one picture
    candidate_ms: float


class Comparison:
    """Compares a candidate with a reference, picture by picture; a context manager, used by one thread."""

    def __init__(self, reference: Predictor, candidate: Predictor, floor: float | None = None) -> None:
        """Take the engine whose findings are the truth, the other, and a floor of scores to decode down to as well."""
        self._predictors = (reference, candidate)
        self._floor = floor
        self._open = contextlib.ExitStack()
        self._tally = Tally()
        self._digest = hashlib.sha256()

    def __enter__(self) -> Comparison:
        with contextlib.ExitStack() as opened:
            self._sides = [_Side(predictor, opened) for predictor in self._predictors]
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def compare(self, picture: Image) -> tuple[ScoredFindings, ScoredFindings]:
        """Run both engines on a picture; return the findings of each. They take turns in going first."""
        self._digest.update(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes())
        reference, candidate = self._sides
        if len(reference.times_ms) % 2:
            other = candidate.answer(picture, self._floor)
            truth = reference.answer(picture, self._floor)
        else:
            truth = reference.answer(picture, self._floor)
            other = candidate.answer(picture, self._floor)
        self._tally.add(truth.findings, other.findings)
        return truth, other

    def finish(self) -> ComparisonResult:
        """Return the outcome of the pictures so far; where they are few, the last is run again to time it."""
        while any(len(side.times_ms) < LEAST_TIMES for side in self._sides):
            for side in self._sides:
                side.time()
        reference_ms, candidate_ms = (median(side.times_ms) for side in self._sides)
        return ComparisonResult(self._tally.result(), self._digest.hexdigest(), reference_ms, candidate_ms)


class _Side:
    """One engine in use."""

    def __init__(self, predictor: Predictor, opened: contextlib.ExitStack) -> None:
        self._session = opened.enter_context(predictor.session())
        self.times_ms: list[float] = []
        self._session.warm_up()

    def answer(self, picture: Image, floor: float | None) -> ScoredFindings:
        findings = self._session.predict(picture)
        self.times_ms.append(self._session.times.infer_ms)
        return ScoredFindings(findings, None if floor is None else self._session.decode(score_threshold=floor))

    def time(self) -> None:
        """Run the last picture once more."""
        self.times_ms.append(self._session.run().infer_ms)


@dataclass(frozen=True)
class EngineAnswer:
    """Outputs and findings of an engine for one picture."""

    outputs: dict[str, NDArray[Any]]  # copies, without the batch axis
    findings: Findings


def answers(predictor: Predictor, pictures: Sequence[Image], max_batch: int) -> list[EngineAnswer]:
    """Run pictures through an engine, in batches of up to `max_batch`."""
    found: list[EngineAnswer] = []
    with predictor.session(max_batch) as session:
        for start in range(0, len(pictures), max_batch):
            batch = session.predict_batch(pictures[start : start + max_batch])
            found += [EngineAnswer(session.copy_outputs(row), findings) for row, findings in enumerate(batch)]
    return found


@dataclass(frozen=True)
class NumericCheck:
    """Agreement of two engines on some pictures, down to their raw outputs."""

    error: OutputError  # of the worst picture
    agreement: float | None  # None: neither found anything

    def why_not(self, min_agreement: float) -> str | None:
        """Return why the agreement is too low; None where it is high enough."""
        if not np.isfinite(self.error.max):
            return "its outputs are not finite, or have another shape"
        if self.error.mean > MAX_MEAN_ERROR:
            return f"the mean error of its outputs is above {MAX_MEAN_ERROR:g} of their spread"
        if self.agreement is not None and self.agreement < min_agreement:
            return f"the agreement of its findings is {self.agreement:.3f}, wanted {min_agreement:g}"
        return None

    def __str__(self) -> str:
        found = "nothing was found" if self.agreement is None else f"agreement {self.agreement:.3f}"
        return f"{found}, output error mean {self.error.mean:.2g}, max {self.error.max:.2g} of the spread"


def check_numerics(reference: Sequence[EngineAnswer], candidate: Sequence[EngineAnswer]) -> NumericCheck:
    """Compare the answers of a new engine with those of the reference; the worst picture counts."""
    errors = [output_error(one.outputs, other.outputs) for one, other in zip(reference, candidate, strict=True)]
    worst = OutputError(max(error.max for error in errors), max(error.mean for error in errors))
    return NumericCheck(worst, agreement([one.findings for one in reference], [other.findings for other in candidate]))


def entry_of(
    onnx: Path,
    form: ModelFiles,
    file: Path,
    here: RuntimeIdentity,
    against: Precision,
    measured: ComparisonResult,
    truth: dict[str, dict[str, float]] | None = None,
) -> PrecisionEntry:
    """Make the entry of precision.json from a comparison; raise ConfigError where nothing was found."""
    found = measured.agreement
    if found.figure is None:
        raise ConfigError(
            f"neither {against} nor {form.precision} found anything in {found.frames} frames, which "
            "proves nothing; give --frames that show what the model finds"
        )
    return PrecisionEntry(
        precision=form.precision,
        against=against,
        onnx=onnx.name,
        onnx_sha256=form.onnx_sha256,
        file=file.name,
        file_sha256=form.file_sha256,
        reading_sha256=form.reading_sha256,
        **asdict(here),
        metric="f1" if found.top1 is None else "top1",
        agreement=found.figure,
        measured={name: value for name, value in asdict(found).items() if name != "frames"},
        frames=found.frames,
        data_sha256=measured.data_sha256,
        ms=round(measured.candidate_ms, 4),
        against_ms=round(measured.reference_ms, 4),
        truth=truth,
        at=utc_text(wall_ns()),
    )
