"""Scores of a quantized model against its FP32 form, on the same images, preprocessing and decoding."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from edge.core.errors import ConfigError, EngineError
from edge.core.process import usable_cores
from edge.core.records import Detections, Findings, Image
from edge.inference.backends.ort import OrtEngine
from edge.inference.decode.boxes import iou
from edge.inference.infer import Inference
from edge.inference.predictor import Predictor
from edge.precision.agreement import agreement, matches
from edge.precision.layer_search import Score

# Below the model's threshold there are more boxes to compare, and their scores say more than their number.
_LOW = 0.3  # of the threshold
# A box near the threshold appears and disappears by chance: findings are compared at several thresholds.
_THRESHOLDS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)  # of the model's
_TIMED_RUNS = 15


class QuantizationScorer:
    """Compares forms of one model with its FP32 form on some images."""

    def __init__(self, predictor: Predictor, fp32: bytes, images: Sequence[Image]) -> None:
        """Run the FP32 form; raise ConfigError if it finds nothing in any image, as nothing can be compared then."""
        self._predictor = predictor  # of the model, on any engine
        self._images = images
        self._threshold = predictor.manifest.output.score_threshold
        self._reference = self.findings(fp32)
        self.found = sum(len(_above(each, self._threshold).scores) for each in self._reference)
        if not any(len(each.scores) for each in self._reference):
            raise ConfigError(
                f"the model finds nothing in the {len(images)} frames held back for scoring, not even at a score of "
                f"{_LOW * self._threshold:.2g}; wanted frames with objects that it detects"
            )

    def findings(self, onnx: bytes) -> list[Findings]:
        """Return the findings of a form of the model, down to a low score."""
        with tempfile.TemporaryDirectory() as folder:
            predictor = self._predictor.with_engine(self._opened(onnx, Path(folder), usable_cores()))
            with predictor.session() as session:
                return [session.predict(image, _LOW * self._threshold) for image in self._images]

    def score(self, onnx: bytes) -> Score:
        """Score a form of the model; one whose outputs cannot be decoded scores 0."""
        try:
            return self._score(self.findings(onnx))
        except EngineError:
            return Score(0.0, 0.0, 0.0)

    def run_ms(self, onnx: bytes) -> float:
        """Return the time for one image in ONNX Runtime on one core of this machine, the median of several runs."""
        with tempfile.TemporaryDirectory() as folder:
            engine = self._opened(onnx, Path(folder), 1)
            with engine.make_context(1) as context:
                inference = Inference(context, engine, 1)
                inference.run(1)
                return median(_timed_ms(inference) for _ in range(_TIMED_RUNS))

    def _opened(self, onnx: bytes, folder: Path, threads: int) -> OrtEngine:
        path = folder / "judged.onnx"
        path.write_bytes(onnx)
        return OrtEngine(path, threads=threads, inputs=self._predictor.manifest.input)

    def _score(self, candidate: Sequence[Findings]) -> Score:
        found = [self._agreement(candidate, factor * self._threshold) for factor in _THRESHOLDS]
        agreements = [each for each in found if each is not None]
        finer = similarity(self._reference, candidate)
        if not agreements:
            return Score(finer, finer, finer)
        mean = sum(agreements) / len(agreements)
        exact = self._agreement(candidate, self._threshold)
        return Score(mean, mean if exact is None else exact, finer)

    def _agreement(self, candidate: Sequence[Findings], threshold: float) -> float | None:
        return agreement(*([_above(each, threshold) for each in side] for side in (self._reference, candidate)))


def _above(findings: Findings, threshold: float) -> Findings:
    if not isinstance(findings, Detections):
        return findings
    kept = findings.scores >= threshold
    return Detections(findings.boxes[kept], findings.scores[kept], findings.class_ids[kept])


def similarity(reference: Sequence[Findings], candidate: Sequence[Findings]) -> float:
    """Return the similarity of scores and positions, 0…1: 2·Σ(IoU·the smaller score) / Σ(all scores)."""
    shared = sum(_shared(one, other) for one, other in zip(reference, candidate, strict=True))
    total = sum(float(findings.scores.sum()) for findings in (*reference, *candidate))
    return 2 * shared / total if total else 1.0


def _shared(one: Findings, other: Findings) -> float:
    if isinstance(one, Detections) and isinstance(other, Detections):
        overlaps = iou(one.boxes, other.boxes)
        pairs = matches(one, other)
        return float(sum(overlaps[row, column] * min(one.scores[row], other.scores[column]) for row, column in pairs))
    scores = dict(zip(other.class_ids.tolist(), other.scores.tolist(), strict=True))
    mine = zip(one.class_ids.tolist(), one.scores.tolist(), strict=True)
    return float(sum(min(score, scores.get(class_id, 0.0)) for class_id, score in mine))


def _timed_ms(inference: Inference) -> float:
    start_ns = perf_counter_ns()
    inference.run(1)
    return (perf_counter_ns() - start_ns) / 1e6
