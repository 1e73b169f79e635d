"""Frames to calibrate and to verify a model with: spread over a source, or labelled by people."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from edge.capture import Source, open_source
from edge.capture.image_files import is_picture
from edge.core.clock import now_ns
from edge.core.errors import ConfigError, SourceError
from edge.core.manifest import Task
from edge.core.records import Image
from edge.core.redaction import redact_address
from edge.core.source_address import SourceAddress, parse_address
from edge.precision.frames import FrameSelection, LabelledFrame
from edge.precision.ground_truth import Label, read_boxes, read_classes

log = logging.getLogger(__name__)

DEFAULT_COUNT = 64
STEP_S = 0.5  # between two frames of an endless source: neighbours are nearly alike

Item = TypeVar("Item")


def select_frames(
    truth: Path | None, source: str | None, count: int | None, task: Task, labels: Sequence[str]
) -> FrameSelection:
    """Choose frames to verify on: the labelled ones where `truth` is given, otherwise some of the source."""
    if truth is not None:
        return labelled_frames(truth, source, count, task, labels)
    if source is None:
        raise ConfigError("no frames to verify on; give --frames with a video, a folder of pictures or a camera's URL")
    return open_frames(source, count or DEFAULT_COUNT, "--frames")


def open_frames(source: str, count: int, option: str) -> FrameSelection:
    """Choose `count` frames of a source, spread over it where it has an end; `option` is named in errors.

    Raises ConfigError where there is no such source or no frame in it, SourceError (also later) where reading fails.
    """
    try:
        address = parse_address(source, Path())
    except ValueError as error:
        raise ConfigError(f"{option} {error}") from None
    path, source = Path(address.location), redact_address(source)
    if address.scheme == "file" and not path.exists():
        raise ConfigError(
            f"{option} {address.shown} does not exist; wanted a video, a picture, a folder of pictures or a URL"
        )
    if address.scheme == "file" and path.is_dir():
        return FrameSelection(source, *_of_folder(path, count, option))
    is_endless = address.is_live or (address.scheme == "synthetic" and address.options.get("frames", "0") == "0")
    if is_endless:
        return FrameSelection(source, count, islice(_at_intervals(address), count))
    length = _length(address)
    if not length:
        raise ConfigError(f"{option} {address.shown} has no frames; wanted a video that has some")
    places = spread(range(length), count)
    return FrameSelection(source, len(places), _at(address, places))


def labelled_frames(
    truth: Path, source: str | None, count: int | None, task: Task, labels: Sequence[str]
) -> FrameSelection:
    """Choose `count` of the labelled pictures, evenly spread; None: all of them."""
    if not truth.exists():
        raise ConfigError(
            f"--truth {truth} does not exist; wanted a COCO JSON file, or a folder with one folder per class"
        )
    if truth.is_dir() != (task == "classify"):
        found, wanted = ("folder", "a COCO JSON file of boxes") if truth.is_dir() else ("file", "one folder per class")
        raise ConfigError(f"--truth {truth}: found a {found}, wanted {wanted} for a model whose task is {task}")
    known: dict[Path, Label] = {}
    if task == "classify":
        known.update(read_classes(truth, labels))
    else:
        known.update(read_boxes(truth, truth.parent if source is None else Path(source), labels))
    chosen = spread(list(known), count or len(known))
    frames = (LabelledFrame(path.name, _read(path), known[path]) for path in chosen)
    return FrameSelection(str(truth), len(chosen), frames)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` evenly spaced items, in order; all where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]


def _of_folder(folder: Path, count: int, option: str) -> tuple[int, Iterator[LabelledFrame]]:
    pictures = sorted(each for each in folder.iterdir() if is_picture(each))
    if not pictures:
        raise ConfigError(f"{option} {folder}: the folder holds no picture; wanted files such as .jpg or .png in it")
    chosen = spread(pictures, count)
    return len(chosen), _readable(chosen)


def _readable(paths: Sequence[Path]) -> Iterator[LabelledFrame]:
    """Yield the pictures that can be decoded; the others are logged."""
    for path in paths:
        try:
            picture = _read(path)
        except SourceError as error:
            log.warning("%s; skipped", error)
        else:
            yield LabelledFrame(path.name, picture)


def _read(path: Path) -> Image:
    with _opened(SourceAddress("file", str(path))) as source:
        source.grab()
        return source.retrieve(None)


@contextlib.contextmanager
def _opened(address: SourceAddress) -> Iterator[Source]:
    with contextlib.closing(open_source(address)) as source:
        yield source


def _length(address: SourceAddress) -> int:
    """Count a source's frames by reading them: a file's own count can be wrong."""
    with _opened(address) as source:
        length = 0
        while source.grab() is not None:
            length += 1
    return length


def _at(address: SourceAddress, places: Sequence[int]) -> Iterator[LabelledFrame]:
    with _opened(address) as source:
        wanted = set(places)
        for place in range(max(places) + 1):
            if source.grab() is None:
                return
            if place in wanted:
                yield LabelledFrame(f"frame {place}", source.retrieve(None))


def _at_intervals(address: SourceAddress) -> Iterator[LabelledFrame]:
    with _opened(address) as source:
        place, due_s = 0, 0.0
        while True:
            try:
                media_s = source.grab()
            except TimeoutError:
                raise SourceError(f"{address.shown} gave no frame in time; check that the camera is up") from None
            if media_s is None:
                return
            at_s = now_ns() / 1e9 if address.is_live else media_s
            if at_s >= due_s:
                due_s = at_s + STEP_S
                yield LabelledFrame(f"frame {place}", source.retrieve(None))
            place += 1
