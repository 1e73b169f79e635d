"""Which layers of a model to quantize: each one's harm alone, then the most work in INT8 that keeps the agreement.

Pure but for the notes: quantizing, running and judging are in the function that is handed in.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.core.files import write_atomic

log = logging.getLogger(__name__)

Layers = frozenset[str]
ProgressCallback = Callable[[str, int, int], None]  # phase, done, of how many

_MOST_TAKEN_BACK = 32  # layers that are tried once more, one after the other
_NAME_DIGITS = 16


@dataclass(frozen=True)
class Score:
    """How a model with some layers quantized compares with the FP32 one on held-back frames; 1 is the same."""

    agreement: float  # F1, or the share of same best classes: the mean over thresholds near the model's own
    exact: float  # the same at the model's own threshold: what users will see, but with more chance in it
    likeness: float  # finer, of scores and places

    def reaches(self, aim: Score) -> bool:
        """Tell whether no figure is below that of the aim."""
        return self.agreement >= aim.agreement and self.exact >= aim.exact and self.likeness >= aim.likeness


SAME = Score(1.0, 1.0, 1.0)


Evaluate = Callable[[Layers], Score]


@dataclass(frozen=True)
class Harm:
    """What quantizing one layer alone does."""

    layer: str
    harm: float  # 1 - likeness
    share: float  # of the model's multiplications
    kept: bool  # in higher precision


@dataclass(frozen=True)
class CurvePoint:
    """One choice of layers that was measured."""

    layers: int
    share: float  # of multiplications in INT8
    agreement: float
    likeness: float


@dataclass(frozen=True)
class LayerSelection:
    """What the search found."""

    layers: Layers  # to be quantized; none where none can be
    score: Score
    harms: tuple[Harm, ...]  # the most harmful first
    curve: tuple[CurvePoint, ...]  # by the number of layers

    @property
    def share(self) -> float:
        """The share of multiplications in INT8."""
        return sum(each.share for each in self.harms if not each.kept)


class LayerSearch:
    """A search over the layers of one model, whose `shares` of all multiplications are given in the graph's order."""

    def __init__(self, shares: Mapping[str, float], evaluate: Evaluate, aim: Score, told: ProgressCallback) -> None:
        """Take `aim`, the least that is wanted of the result."""
        self._shares = shares
        self._evaluate = evaluate
        self._aim = aim
        self._told = told
        self._points: dict[Layers, Score] = {}

    def run(self, harms: Mapping[str, float]) -> LayerSelection:
        """Search, by what harm each layer does alone."""
        candidates = [self._bisect(order) for order in self._orders(harms)]
        best = self._take_back(max(candidates, key=self._worth), harms)
        table = [
            Harm(name, harms[name], self._shares[name], name not in best)
            for name in sorted(harms, key=lambda name: -harms[name])
        ]
        return LayerSelection(best, self._score(best), tuple(table), self._curve())

    def measure_alone(self, method: str) -> dict[str, float]:
        """Return the harm of each layer when it alone is quantized; `method` is told to who waits."""
        harms = {}
        for number, name in enumerate(self._shares):
            self._told(f"measuring each layer, {method}", number, len(self._shares))
            harms[name] = max(0.0, 1 - self._evaluate(frozenset([name])).likeness)
        return harms

    def _orders(self, harms: Mapping[str, float]) -> list[list[str]]:
        """Return the orders in which layers are quantized: the least harmful first; the least for its work first.

        The errors of layers are independent, so it is their squares that add up.
        """
        by_harm = sorted(harms, key=lambda name: harms[name])
        for_work = sorted(harms, key=lambda name: harms[name] ** 2 / max(self._shares[name], 1e-9))
        return [by_harm, for_work]

    def _bisect(self, order: list[str]) -> Layers:
        """Return as many of the first layers as keep the agreement, taking it that more layers agree less."""
        good, bad = 0, len(order) + 1
        tried = len(order)
        while bad - good > 1:
            self._told("choosing layers", good, len(order))
            if self._score(frozenset(order[:tried])).reaches(self._aim):
                good = tried
            else:
                bad = tried
            tried = (good + bad) // 2
        return frozenset(order[:good])

    def _take_back(self, chosen: Layers, harms: Mapping[str, float]) -> Layers:
        """Try those left out once more, one after the other, those first whose harm is least for their work."""
        left = [name for name in self._orders(harms)[1] if name not in chosen][:_MOST_TAKEN_BACK]
        for number, name in enumerate(left):
            self._told("taking layers back", number, len(left))
            if self._score(chosen | {name}).reaches(self._aim):
                chosen |= {name}
        return chosen

    def _worth(self, layers: Layers) -> tuple[float, int]:
        return round(self._share(layers), 6), len(layers)

    def _share(self, layers: Layers) -> float:
        return sum(self._shares[name] for name in layers)

    def _score(self, layers: Layers) -> Score:
        if layers not in self._points:
            self._points[layers] = self._evaluate(layers) if layers else SAME
        return self._points[layers]

    def _curve(self) -> tuple[CurvePoint, ...]:
        points = [
            CurvePoint(len(layers), self._share(layers), score.agreement, score.likeness)
            for layers, score in self._points.items()
        ]
        return tuple(sorted(points, key=lambda point: (point.layers, point.share)))


class Notes:
    """What was measured, kept in a file, so that a search that was ended goes on where it was."""

    def __init__(self, path: Path, key: str) -> None:
        """Read the notes of a search with the same `key`; those of another one are given up."""
        self._path = path
        self._key = key
        self._scores: dict[str, Score] = self._read()

    def remembering(self, evaluate: Evaluate) -> Evaluate:
        """Return the function with what is noted already."""

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
        """Forget all, once the result is kept."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Score]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if found["key"] != self._key:
                return {}
            return {name: Score(**score) for name, score in found["scores"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be used (%s); the search starts anew", self._path, error)
            return {}

    def _write(self) -> None:
        text = json.dumps({"key": self._key, "scores": {name: asdict(score) for name, score in self._scores.items()}})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, text.encode(), durable=False)
        except OSError as error:
            log.warning("%s cannot be written (%s); a search that is ended starts anew", self._path, error)


def _name(layers: Layers) -> str:
    return hashlib.sha256("\n".join(sorted(layers)).encode()).hexdigest()[:_NAME_DIGITS]
