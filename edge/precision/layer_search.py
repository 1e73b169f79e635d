"""Search for the layers to quantize: sensitivity of each alone, then the most work in INT8 within the tolerance.

Pure except for the stored scores: quantizing, running and scoring are in a function that is passed in.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.files import write_atomic

log = logging.getLogger(__name__)

Layers = frozenset[str]
ProgressCallback = Callable[[str, int, int], None]  # phase, done, total

_MOST_RETRIED = 32  # excluded layers that are tried again, one after the other
_NAME_DIGITS = 16


@dataclass(frozen=True)
class Score:
    """Agreement of a partly quantized model with the FP32 one on held-back frames; 1 is the same."""

    agreement: float  # F1, or the fraction of equal best classes: the mean over thresholds near the model's own
    exact: float  # the same at the model's own threshold: what users see, but with more noise
    similarity: float  # finer: of scores and positions

    def reaches(self, aim: Score) -> bool:
        """Return whether every figure is at least that of the aim."""
        return self.agreement >= aim.agreement and self.exact >= aim.exact and self.similarity >= aim.similarity

    def to_json(self) -> dict[str, float]:
        return {"agreement": self.agreement, "exact": self.exact, "likeness": self.similarity}

    @classmethod
    def from_json(cls, stored: Mapping[str, float]) -> Score:
        """Return a stored score; raise KeyError or TypeError for anything else."""
        return cls(stored["agreement"], stored["exact"], stored["likeness"])


SAME = Score(1.0, 1.0, 1.0)


Evaluate = Callable[[Layers], Score]


@dataclass(frozen=True)
class LayerSensitivity:
    """Effect of quantizing one layer alone."""

    layer: str
    sensitivity: float  # 1 - similarity
    fraction: float  # of the model's multiplications
    kept: bool  # in higher precision

    def to_json(self) -> dict[str, Any]:
        return {"layer": self.layer, "harm": self.sensitivity, "share": self.fraction, "kept": self.kept}


@dataclass(frozen=True)
class CurvePoint:
    """One measured selection of layers."""

    layers: int
    fraction: float  # of multiplications in INT8
    agreement: float
    similarity: float

    def to_json(self) -> dict[str, float]:
        return {
            "layers": self.layers,
            "share": self.fraction,
            "agreement": self.agreement,
            "likeness": self.similarity,
        }


@dataclass(frozen=True)
class LayerSelection:
    """Result of a search."""

    layers: Layers  # to quantize; empty if none can be
    score: Score
    sensitivities: tuple[LayerSensitivity, ...]  # the highest first
    curve: tuple[CurvePoint, ...]  # by the number of layers

    @property
    def fraction(self) -> float:
        """The fraction of multiplications in INT8."""
        return sum(each.fraction for each in self.sensitivities if not each.kept)


class LayerSearch:
    """A search over the layers of one model, given their `fractions` of all multiplications in the graph's order."""

    def __init__(
        self, fractions: Mapping[str, float], evaluate: Evaluate, aim: Score, on_progress: ProgressCallback
    ) -> None:
        """Search for selections that reach `aim`."""
        self._fractions = fractions
        self._evaluate = evaluate
        self._aim = aim
        self._on_progress = on_progress
        self._points: dict[Layers, Score] = {}

    def run(self, sensitivities: Mapping[str, float]) -> LayerSelection:
        """Search, given the sensitivity of each layer."""
        candidates = [self._bisect(order) for order in self._orders(sensitivities)]
        best = self._retry_excluded(max(candidates, key=self._worth), sensitivities)
        table = [
            LayerSensitivity(name, sensitivities[name], self._fractions[name], name not in best)
            for name in sorted(sensitivities, key=lambda name: -sensitivities[name])
        ]
        return LayerSelection(best, self._score(best), tuple(table), self._curve())

    def measure_alone(self, method: str) -> dict[str, float]:
        """Return the sensitivity of each layer, quantized alone; `method` is shown in the progress."""
        sensitivities = {}
        for number, name in enumerate(self._fractions):
            self._on_progress(f"measuring each layer, {method}", number, len(self._fractions))
            sensitivities[name] = max(0.0, 1 - self._evaluate(frozenset([name])).similarity)
        return sensitivities

    def _orders(self, sensitivities: Mapping[str, float]) -> list[list[str]]:
        """Return two orders of quantization: by sensitivity, and by sensitivity relative to work.

        The errors of layers are independent, so their squares add up.
        """
        by_sensitivity = sorted(sensitivities, key=lambda name: sensitivities[name])
        by_work = sorted(sensitivities, key=lambda name: sensitivities[name] ** 2 / max(self._fractions[name], 1e-9))
        return [by_sensitivity, by_work]

    def _bisect(self, order: list[str]) -> Layers:
        """Return the longest prefix of layers that reaches the aim, assuming that more layers agree less."""
        good, bad = 0, len(order) + 1
        tried = len(order)
        while bad - good > 1:
            self._on_progress("choosing layers", good, len(order))
            if self._score(frozenset(order[:tried])).reaches(self._aim):
                good = tried
            else:
                bad = tried
            tried = (good + bad) // 2
        return frozenset(order[:good])

    def _retry_excluded(self, chosen: Layers, sensitivities: Mapping[str, float]) -> Layers:
        """Add excluded layers one by one as long as the aim is reached, the least sensitive for their work first."""
        left = [name for name in self._orders(sensitivities)[1] if name not in chosen][:_MOST_RETRIED]
        for number, name in enumerate(left):
            self._on_progress("retrying excluded layers", number, len(left))
            if self._score(chosen | {name}).reaches(self._aim):
                chosen |= {name}
        return chosen

    def _worth(self, layers: Layers) -> tuple[float, int]:
        return round(self._fraction(layers), 6), len(layers)

    def _fraction(self, layers: Layers) -> float:
        return sum(self._fractions[name] for name in layers)

    def _score(self, layers: Layers) -> Score:
        if layers not in self._points:
            self._points[layers] = self._evaluate(layers) if layers else SAME
        return self._points[layers]

    def _curve(self) -> tuple[CurvePoint, ...]:
        points = [
            CurvePoint(len(layers), self._fraction(layers), score.agreement, score.similarity)
            for layers, score in self._points.items()
        ]
        return tuple(sorted(points, key=lambda point: (point.layers, point.fraction)))


class ScoreStore:
    """Scores stored in a file, so that an interrupted search continues where it stopped."""

    def __init__(self, path: Path, key: str) -> None:
        """Read the scores of a search with the same `key`; discard those of another."""
        self._path = path
        self._key = key
        self._scores: dict[str, Score] = self._read()

    def caching(self, evaluate: Evaluate) -> Evaluate:
        """Return the function, backed by the stored scores."""

        def evaluated(layers: Layers) -> Score:
            name = _name(layers)
            if name not in self._scores:
                self._scores[name] = evaluate(layers)
                self._write()
            return self._scores[name]

        return evaluated

    @property
    def count(self) -> int:
        return len(self._scores)

    def remove(self) -> None:
        """Delete all, once the result is stored."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Score]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if found["key"] != self._key:
                return {}
            return {name: Score.from_json(score) for name, score in found["scores"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be used (%s); the search starts from the beginning", self._path, error)
            return {}

    def _write(self) -> None:
        scores = {name: score.to_json() for name, score in self._scores.items()}
        text = json.dumps({"key": self._key, "scores": scores})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, text.encode(), durable=False)
        except OSError as error:
            log.warning("%s cannot be written (%s); an interrupted search will start again", self._path, error)


def _name(layers: Layers) -> str:
    return hashlib.sha256("\n".join(sorted(layers)).encode()).hexdigest()[:_NAME_DIGITS]
