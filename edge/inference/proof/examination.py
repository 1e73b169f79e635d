"""Examination of readings: those that a model's values refute, and those that remain."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from edge.core.errors import ModelError
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.contract import Options
from edge.inference.decode.placement import place_parts
from edge.inference.decode.reader import Reader
from edge.inference.decode.reading import Activation, Background, Coding, Form, Part, Reading, Units
from edge.inference.proof import box_rules
from edge.inference.proof.arrangements import Arrangement, arrangements
from edge.inference.proof.evidence import Evidence
from edge.inference.proof.mirroring import mirror_error
from edge.inference.proof.pictures import Sample

_FORMS: tuple[Form, ...] = get_args(Form)
_UNITS: tuple[Units, ...] = ("input", "unit")
_BEYOND_ROWS = 0.25
_CELL_MARGIN = 0.02  # of the picture
_MIRRORED, _NOT_MIRRORED = 0.04, 0.08  # error of a mirrored box, as a fraction of the picture


@dataclass(frozen=True)
class Candidate:
    """A reading of certain outputs."""

    reading: Reading
    names: tuple[str, ...]


@dataclass(frozen=True)
class Examination:
    """Result of examining readings."""

    remaining: tuple[Candidate, ...]
    refuted: tuple[tuple[Candidate, str], ...]
    is_order_seen: bool = False  # whether values told x from y


@dataclass(frozen=True)
class Bench:
    """Outputs of known pictures, on which readings are examined."""

    specs: tuple[TensorSpec, ...]
    samples: tuple[Sample, ...]
    options: Options  # input_width, input_height, label_count
    is_draft: bool = True  # whether nobody has said which column is the background

    @property
    def input_px(self) -> tuple[int, int]:
        return self.options["input_width"], self.options["input_height"]

    def reader(self, candidate: Candidate) -> Reader:
        """Return a reader; raise ModelError where the outputs have other shapes."""
        options = {"decoder": "drafted", **self.options}
        places = place_parts(candidate.reading, candidate.names, self.specs, options)
        return Reader(candidate.reading, places, self.specs, options)


def candidates(bench: Bench) -> Iterator[tuple[Arrangement, list[Candidate]]]:
    """Yield each arrangement that fits shapes and labels, with its readings."""
    for arrangement in arrangements(bench.specs):
        found = list(readings(arrangement, bench))
        if found:
            yield arrangement, found


def readings(arrangement: Arrangement, bench: Bench) -> Iterator[Candidate]:
    """Yield the readings of an arrangement that fit the number of labels."""
    flat = {part for parts in arrangement.outputs for part in parts}
    codings: tuple[Coding, ...] = ("none", "yolox") if "objectness" in flat else ("none",)
    options = _score_options(flat, has_labels=bool(bench.options["label_count"]))
    for (activation, background), coding in itertools.product(options, codings):
        plain = Reading(
            arrangement.outputs, arrangement.layout, activation=activation, background=background, coding=coding
        )
        try:
            bench.reader(Candidate(plain, arrangement.names))
        except ModelError:
            continue
        forms = _FORMS if coding == "none" else ("cxcywh",)
        units = _UNITS if coding == "none" else ("input",)
        for form, unit in itertools.product(forms, units):
            yield Candidate(replace(plain, boxes=form, units=unit), arrangement.names)


def _score_options(parts: set[Part], *, has_labels: bool) -> Iterator[tuple[Activation, Background]]:
    yield from (("none", "none"), ("sigmoid", "none"))
    if "scores" in parts:
        yield from itertools.product(("none", "sigmoid", "softmax"), ("first", "last"))
    elif "class" in parts and has_labels:  # without labels, the numbers of classes stand for themselves
        yield "none", "first"


def examine(found: Iterable[tuple[Arrangement, Sequence[Candidate]]], bench: Bench) -> Examination:
    """Refute readings by values: first each by itself, then by what another explains better."""
    refuted: dict[Candidate, str] = {}
    remaining: dict[Candidate, Evidence] = {}
    for _, group in found:
        labels = bench.options["label_count"]
        reader = bench.reader(group[0])
        evidence = Evidence(reader, bench.samples, bench.input_px, labels, is_draft=bench.is_draft)
        for candidate in group:
            reason = evidence.refutation(candidate.reading)
            if reason is None:
                remaining[candidate] = evidence
            else:
                refuted[candidate] = reason
    is_order_seen = False
    for compare in (_by_cells, _by_edges, _by_mirrors):
        reasons, has_seen = compare(remaining, bench)
        refuted |= reasons
        remaining = {each: evidence for each, evidence in remaining.items() if each not in reasons}
        is_order_seen |= has_seen
    return Examination(tuple(remaining), tuple(refuted.items()), is_order_seen)


_Compared = tuple[dict[Candidate, str], bool]


def _by_cells(remaining: Mapping[Candidate, Evidence], bench: Bench) -> _Compared:  # noqa: ARG001 -- as its neighbours
    """Refute readings whose boxes do not lie at the cells of their rows, where those of another do."""
    distances = {each: evidence.distance_to_cells(each.reading) for each, evidence in remaining.items()}
    best = min((value for value in distances.values() if value is not None), default=None)
    if best is None or not box_rules.is_near_cells(best):
        return {}, False
    return {
        each: f"its boxes lie {distance:.0%} of the picture away from the cells of their rows"
        for each, distance in distances.items()
        if distance is not None and distance > 2 * best + _CELL_MARGIN
    }, True


def _by_edges(remaining: Mapping[Candidate, Evidence], bench: Bench) -> _Compared:  # noqa: ARG001 -- as its neighbours
    """Refute readings whose boxes reach beyond the picture, where those of another do not."""
    beyond = {each: evidence.fraction_beyond(each.reading) for each, evidence in remaining.items()}
    least = min(beyond.values(), default=0.0)
    return {
        each: f"{fraction:.0%} of its boxes reach beyond the picture, of another reading's {least:.0%}"
        for each, fraction in beyond.items()
        if fraction > max(_BEYOND_ROWS, 2 * least)
    }, False


def _by_mirrors(remaining: Mapping[Candidate, Evidence], bench: Bench) -> _Compared:
    """Refute readings whose boxes of a mirrored picture are not the mirrored ones, where those of another are."""
    errors = {
        each: mirror_error(evidence.views, bench.reader(each), bench.input_px) for each, evidence in remaining.items()
    }
    reasons: dict[Candidate, str] = {}
    has_seen = False
    for each, error in errors.items():
        # Only the boxes are compared, so readings that find other objects are not.
        alike = [errors[other] for other in remaining if _same_scores(each, other)]
        best = min((value for value in alike if value is not None), default=None)
        has_seen |= best is not None and best < _MIRRORED
        if error is not None and best is not None and best < _MIRRORED and error > max(_NOT_MIRRORED, 3 * best):
            reasons[each] = f"the boxes of a mirrored picture are {error:.0%} of it away from the mirrored boxes"
        others = [errors[other] for other in remaining if other.names == each.names and _same_parts(each, other)]
        if error is None and any(value is not None and value < _MIRRORED for value in others):
            reasons[each] = "it finds nothing where another reading finds an object and its mirror image"
    return reasons, has_seen


def _same_scores(one: Candidate, other: Candidate) -> bool:
    plain = {"boxes": "cxcywh", "units": "input", "coding": "none"}
    same = replace(one.reading, **plain) == replace(other.reading, **plain)  # type: ignore[arg-type]
    return same and one.names == other.names


def _same_parts(one: Candidate, other: Candidate) -> bool:
    return (one.reading.outputs, one.reading.layout) == (other.reading.outputs, other.reading.layout)
