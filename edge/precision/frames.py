"""Frames to calibrate and to verify with: a name, a picture, and its label where it has one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge.core.records import Image
from edge.precision.ground_truth import Label


@dataclass(frozen=True)
class LabelledFrame:
    """A picture, and its label where one is known."""

    name: str
    picture: Image
    label: Label | None = None


@dataclass(frozen=True)
class FrameSelection:
    """The chosen frames of a source, read one after the other."""

    source: str  # path or URL, as the user named it
    count: int  # expected
    frames: Iterable[LabelledFrame]
