"""Agreement of two engines on the same images: pure functions over raw outputs, findings and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.records import Classes, Detections, Findings, Image
from edge.inference.decode.boxes import iou

MATCH_IOU = 0.5
TOP_K = 5
_PEAK = 255.0  # the largest value of a pixel
# The window and the constants of Wang et al. 2004, "Image quality assessment".
_WINDOW_PX, _WINDOW_SIGMA_PX = 11, 1.5
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


@dataclass(frozen=True)
class OutputError:
    """Deviation of raw outputs from the reference, relative to the reference's standard deviation."""

    max: float
    mean: float


def output_error(wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> OutputError:
    """Compare the outputs of one image by name; the worst counts. Infinite if one is missing or not finite."""
    errors = [_array_error(array, got.get(name)) for name, array in wanted.items()]
    return OutputError(max(error.max for error in errors), max(error.mean for error in errors))


def _array_error(wanted: NDArray[Any], got: NDArray[Any] | None) -> OutputError:
    if got is None or got.shape != wanted.shape or not np.isfinite(got).all():
        return OutputError(np.inf, np.inf)
    if not wanted.size:
        return OutputError(0.0, 0.0)
    exact = wanted.astype(np.float64)
    difference = np.abs(got.astype(np.float64) - exact)
    spread = float(exact.std()) or 1.0
    return OutputError(float(difference.max()) / spread, float(difference.mean()) / spread)


@dataclass(frozen=True)
class Agreement:
    """Agreement of findings over images, with `wanted` as the reference; None for what no image determines."""

    frames: int
    wanted: int = 0  # boxes, as the next two
    got: int = 0
    matched: int = 0  # of the same class, with an IoU of `MATCH_IOU` or more, each once, best first
    f1: float | None = None  # 2·TP / (2·TP + FP + FN)
    precision: float | None = None
    recall: float | None = None
    mean_iou: float | None = None  # of the matched
    score_shift: float | None = None  # mean of got minus wanted, for matching boxes or equal best classes
    top1: float | None = None  # fraction of images with the same best class
    top5: float | None = None  # fraction of images whose wanted best class is among the best five

    @property
    def figure(self) -> float | None:
        """The figure that decides admission."""
        return self.f1 if self.top1 is None else self.top1


class Tally:
    """Accumulates agreement, image by image."""

    def __init__(self) -> None:
        self._frames = self._wanted = self._got = 0
        self._overlaps: list[float] = []
        self._shifts: list[float] = []
        self._top1: list[bool] = []
        self._top5: list[bool] = []

    def add(self, wanted: Findings, got: Findings) -> None:
        """Count one image."""
        self._frames += 1
        if isinstance(wanted, Classes) or isinstance(got, Classes):
            self._add_classes(wanted, got)
        else:
            self._add_boxes(wanted, got)

    def _add_boxes(self, wanted: Detections, got: Detections) -> None:
        self._wanted += len(wanted.scores)
        self._got += len(got.scores)
        pairs = matches(wanted, got)
        overlaps = iou(wanted.boxes, got.boxes)
        self._overlaps += [float(overlaps[pair]) for pair in pairs]
        self._shifts += [float(got.scores[column]) - float(wanted.scores[row]) for row, column in pairs]

    def _add_classes(self, wanted: Findings, got: Findings) -> None:
        best = _best_class(wanted)
        same = best == _best_class(got)
        self._top1.append(same)
        self._top5.append(same or best in got.class_ids[:TOP_K].tolist())
        if same and best is not None:
            self._shifts.append(float(got.scores[0]) - float(wanted.scores[0]))

    def result(self) -> Agreement:
        """Return the agreement over all images so far."""
        matched = len(self._overlaps)
        return Agreement(
            frames=self._frames,
            wanted=self._wanted,
            got=self._got,
            matched=matched,
            f1=_ratio(2 * matched, self._wanted + self._got),
            precision=_ratio(matched, self._got),
            recall=_ratio(matched, self._wanted),
            mean_iou=_ratio(sum(self._overlaps), matched),
            score_shift=_ratio(sum(self._shifts), len(self._shifts)),
            top1=_ratio(sum(self._top1), len(self._top1)),
            top5=_ratio(sum(self._top5), len(self._top5)),
        )


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def agreement(wanted: Sequence[Findings], got: Sequence[Findings]) -> float | None:
    """Return the agreement of findings over images, 0…1; None if neither found anything.

    For boxes it is F1, for classes the fraction of images with the same best class.
    """
    tally = Tally()
    for one, other in zip(wanted, got, strict=True):
        tally.add(one, other)
    return tally.result().figure


def _best_class(findings: Findings) -> int | None:
    return int(findings.class_ids[0]) if len(findings.class_ids) else None


def disagreement(wanted: Findings, got: Findings) -> float:
    """Return the disagreement on one image, for sorting the worst first: unmatched boxes weigh most."""
    tally = Tally()
    tally.add(wanted, got)
    found = tally.result()
    if found.top1 is not None:
        return 2.0 - found.top1 - (found.top5 or 0.0) + abs(found.score_shift or 0.0) / 2
    return found.wanted + found.got - 2 * found.matched + found.matched * (1 - (found.mean_iou or 0.0))


def matches(wanted: Findings, got: Findings) -> list[tuple[int, int]]:
    """Match boxes of `got` with boxes of `wanted`, best first; return pairs of indices into `wanted` and `got`."""
    if not isinstance(wanted, Detections) or not isinstance(got, Detections):
        return []
    overlaps = iou(wanted.boxes, got.boxes)
    overlaps[wanted.class_ids[:, None] != got.class_ids[None]] = 0.0
    pairs = []
    for column in range(len(got.scores)):
        if len(overlaps) and overlaps[:, column].max() >= MATCH_IOU:
            row = int(overlaps[:, column].argmax())
            pairs.append((row, column))
            overlaps[row] = 0.0
    return pairs


def psnr(wanted: Image, got: Image) -> float:
    """Return the peak signal-to-noise ratio of two images of one shape, in dB; infinite if they are equal."""
    error = float(np.square(wanted.astype(np.float64) - got).mean())
    return 10 * float(np.log10(_PEAK**2 / error)) if error else np.inf


def ssim(wanted: Image, got: Image) -> float:
    """Return the structural similarity (-1…1) of two images, H×W or H×W×C: the mean over pixels and channels.

    Pixels whose window reaches beyond the image are omitted, unless the image is smaller than a window.
    """
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    similarity /= (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    rim = _WINDOW_PX // 2 if min(a.shape[:2]) >= _WINDOW_PX else 0
    return float(similarity[rim : a.shape[0] - rim, rim : a.shape[1] - rim].mean())


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = (_WINDOW_PX, _WINDOW_PX)
    return np.asarray(cv2.GaussianBlur(values, size, _WINDOW_SIGMA_PX, borderType=cv2.BORDER_REFLECT_101))
