"""Value rules of scores and classes: what refutes an activation, a background, a column's meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.inference.decode.activations import activated
from edge.inference.decode.reader import without_background
from edge.inference.decode.reading import Activation, Background
from edge.inference.proof.views import View, likely, together

Floats = NDArray[np.float32]

_TOLERANCE = 0.01
_STRAY = 0.02  # fraction of rows
LIKELY = 0.35
_MOST_IN_BLACK = 0.2  # fraction of rows that may hold something in a black picture
_FEW_ROWS = 20  # of which no fraction is taken
_DOMINANT = 0.6  # fraction of rows in which a background is the highest
_UNUSED = 0.3  # a column that is no class reaches no more
_SUM_TOLERANCE = 0.05
_LARGEST_CLASS = 10_000
_FRACTION = 0.01  # more than this beside a whole number is one
_SURE, _UNLIKELY = 0.5, 0.05


def refutation(
    views: Sequence[View], activation: Activation, background: Background, label_count: int | None
) -> str | None:
    """Return why the scores of these views cannot be read so; None where nothing tells against it.

    `label_count` is None where the manifest says which column is the background, and 0 where there are no labels.
    """
    part = "scores" if "scores" in views[0].columns else "score"
    raw = together(views, part)
    if not raw.size:
        return None
    if not np.isfinite(raw).all():
        return "some scores are no numbers"
    reason = _of_lone_column(raw, activation) or range_refutation(
        np.concatenate([raw.ravel(), _objectness(views)]), activation, sum(each.rows for each in views)
    )
    if reason is not None or part == "score":
        return reason or _of_crowd(views, part, activation, "none") or _of_objectness(views, activation, background)
    return (
        _of_background(views, raw, activation, background, label_count)
        or _of_crowd(views, part, activation, background)
        or _of_objectness(views, activation, background)
    )


def _objectness(views: Sequence[View]) -> Floats:
    has_any = "objectness" in views[0].columns
    return together(views, "objectness") if has_any else np.zeros(0, np.float32)


def range_refutation(raw: Floats, activation: Activation, rows: int) -> str | None:
    """Return why values are not in the range that an activation leaves.

    A few values below 0 are those of rows that hold nothing, but none may lie above 1.
    """
    low, high = float(raw.min()), float(raw.max())
    has_few_below = low >= -_TOLERANCE or (raw < -_TOLERANCE).sum() <= _STRAY * rows
    is_fraction = has_few_below and high <= 1 + _TOLERANCE
    if activation == "none" and not is_fraction:
        return f"scores from {low:.3g} to {high:.3g} are no probabilities"
    if activation != "none" and is_fraction and high > 0:
        return f"scores from {low:.3g} to {high:.3g} are probabilities already"
    return None


def _of_lone_column(raw: Floats, activation: Activation) -> str | None:
    """Compare columns: where all but one hold probabilities, that one is no score."""
    if activation == "none" or raw.ndim == 1 or raw.shape[1] <= 2:  # noqa: PLR2004 -- of two, either may be odd
        return None
    outside = np.flatnonzero((raw < -_TOLERANCE).any(axis=0) | (raw > 1 + _TOLERANCE).any(axis=0))
    return f"column {outside[0]} alone lies outside of 0…1: it is no score" if len(outside) == 1 else None


def _of_background(
    views: Sequence[View], raw: Floats, activation: Activation, background: Background, label_count: int | None
) -> str | None:
    if raw.shape[1] == 1:
        return None if background == "none" else "there is one column of scores"
    # Rows of no object tell the background: those of a black picture, if there are any.
    quiet = together([each for each in views if each.kind == "black"] or views[:1], "scores")
    quiet = quiet if len(quiet) >= _FEW_ROWS else raw
    quiet = quiet[np.ptp(quiet, axis=1) > 0]  # rows of one value hold nothing
    adds_up = (
        activation == "none"
        and len(quiet) > 0
        and float((np.abs(quiet.sum(axis=1) - 1) < _SUM_TOLERANCE).mean()) > _DOMINANT
    )
    is_exclusive = activation == "softmax" or adds_up
    if background == "none":
        return "each row's scores add up to 1, so that one column is the background" if is_exclusive else None
    index, place = (0, "first") if background == "first" else (raw.shape[1] - 1, "last")
    others = np.delete(quiet, index, axis=1)
    dominates = float((quiet[:, index] > others.max(axis=1)).mean()) if len(quiet) else 0.0
    if is_exclusive:
        is_low = dominates < _DOMINANT
        return f"the {place} column is the highest in {dominates:.0%} of rows: no background" if is_low else None
    is_named = label_count in (None, raw.shape[1] - 1)
    return _of_unused(activated(raw[:, index], activation), place, dominates, is_named=is_named)


def _of_unused(column: Floats, place: str, dominates: float, *, is_named: bool) -> str | None:
    """Return why a column is no class that is never used."""
    if not is_named:
        return "every column is a class, as far as the labels say"
    if dominates >= _DOMINANT:
        return f"the {place} column is the highest in {dominates:.0%} of rows: a background, which needs softmax"
    highest = float(column.max())
    return f"the {place} column reaches {highest:.2f}: it is a class" if highest > _UNUSED else None


def _of_crowd(views: Sequence[View], part: str, activation: Activation, background: Background) -> str | None:
    for view in views:
        if view.kind != "black" or view.rows < _FEW_ROWS:
            continue
        scores = activated(view.columns[part], activation)
        best = without_background(scores, background).max(axis=1) if scores.ndim > 1 else scores
        if "objectness" in view.columns:
            best = best * activated(view.columns["objectness"], "sigmoid" if activation != "none" else "none")
        found = int((best >= LIKELY).sum())
        if found > _MOST_IN_BLACK * view.rows:
            return f"{found} of {view.rows} rows would be objects in a black picture"
    return None


def _of_objectness(views: Sequence[View], activation: Activation, background: Background) -> str | None:
    """Compare objectness with the class scores: it goes with them, and is low where there is nothing."""
    if "scores" in views[0].columns:
        scores = without_background(activated(together(views, "scores"), activation), background)
    else:
        scores = activated(together(views, "score"), activation)[:, np.newaxis]
    if "objectness" not in views[0].columns:
        return _of_first_column(scores)
    kind: Activation = "sigmoid" if activation != "none" else "none"
    seen = activated(together(views, "objectness"), kind)
    if _is_always_one(views):
        return None
    for view in views:
        if view.kind == "black" and view.rows >= _FEW_ROWS:
            sure = int((activated(view.columns["objectness"], kind) > _SURE).sum())
            if sure > _MOST_IN_BLACK * view.rows:
                return f"objectness would be high in {sure} of {view.rows} rows of a black picture"
    best = scores.max(axis=1)[seen > _SURE] if len(seen) else seen
    if len(best) and float(best.min()) < _UNLIKELY:
        return "rows of high objectness have no likely class: the column is a class itself"
    return None


def _of_first_column(scores: Floats) -> str | None:
    """Return whether the first class goes with all others, as objectness does."""
    if scores.shape[1] < 2:  # noqa: PLR2004 -- the first, and another
        return None
    others = scores[:, 1:]
    sure = others.max(axis=1) > _SURE if len(others) else np.zeros(0, np.bool_)
    if sure.sum() > 1 and bool((scores[sure, 0] > _SURE).all()):
        return "the first class is high wherever another one is: it is objectness"
    return None


def doubt(views: Sequence[View], activation: Activation | None) -> str | None:
    """Return why scores may be something else than the activation takes, though nothing refutes it."""
    part = "scores" if "scores" in views[0].columns else "score"
    if activation == "none" or part not in views[0].columns:
        return None
    raw = together(views, part)
    if raw.size and float(raw.min()) >= 0:
        return f"raw scores lie on both sides of 0, and these from {raw.min():.3g} to {raw.max():.3g}"
    return None


def class_refutation(views: Sequence[View], label_count: int, background: Background) -> str | None:
    """Return why a column cannot hold the numbers of classes; None where nothing tells against it."""
    every, is_likely = together(views, "class"), likely(views)
    classes = every[is_likely] if is_likely.any() else every[every >= 0]
    if not np.isfinite(every).all() or (np.abs(np.rint(every) - every) > _FRACTION).any():
        return "the class column holds fractions"
    if not classes.size:
        return None
    least = int(background == "first")
    most = label_count - 1 + least if label_count else _LARGEST_CLASS
    # Rows of any score tell the first number; rows of none may be padding.
    scored = every[together(views, "score") > 0] if "score" in views[0].columns else classes
    low, high = float(min(classes.min(), scored.min(initial=np.inf))), float(classes.max())
    if low < least or high > most:
        return f"the class column reaches from {low:g} to {high:g}, wanted {least} to {most}"
    return None


def picture_refutation(views: Sequence[View]) -> str | None:
    """Return why a column cannot hold the number of the picture within the batch."""
    is_likely = likely(views)
    numbers = together(views, "picture")[is_likely if is_likely.any() else slice(None)]
    return None if np.isin(numbers, (0, -1)).all() else "the column of the picture's number is not 0"


def whole_column(views: Sequence[View]) -> str | None:
    """Return which column of the scores holds whole numbers alone, as no probability does."""
    is_likely = likely(views)
    for part in ("objectness", "score"):
        if part == "objectness" and _is_always_one(views):
            continue
        if part in views[0].columns and _is_whole(together(views, part)[is_likely]):
            return f"the column of {part} holds whole numbers only"
    if "scores" in views[0].columns and views[0].columns["scores"].shape[1] <= 2:  # noqa: PLR2004 -- more are often all 0
        scores = together(views, "scores")[is_likely]
        for number in range(scores.shape[1]):
            if _is_whole(scores[:, number]):
                return f"column {number} of the scores holds whole numbers only"
    return None


def _is_always_one(views: Sequence[View]) -> bool:
    """Return whether objectness is 1 in each row, as YOLOv6 fills the column."""
    seen = _objectness(views)
    return bool(seen.size) and bool((seen == 1).all())


def _is_whole(values: Floats) -> bool:
    return bool(values.size) and bool(np.isin(values, (0, 1)).all())
