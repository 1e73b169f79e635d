"""The HTML report: it needs no other file, and shows what it was given."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.core.errors import ConfigError
from edge.core.records import Classes, Detections, Findings
from edge.precision.verification import DisagreeingFrame
from edge.precision.verification_report import VerificationPage, draw_pair, render, write_report

GRAY = np.full((120, 160, 3), 128, np.uint8)


def boxes(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def best(*ids: int) -> Classes:
    return Classes(np.linspace(0.9, 0.1, len(ids), dtype=np.float32), np.array(ids, np.int64))


WANTED, GOT = boxes((20, 30, 60, 90, 0.9, 0), (100, 40, 140, 80, 0.8, 1)), boxes((21, 30, 61, 90, 0.7, 0))


def page(wanted: Findings = WANTED, got: Findings = GOT, **more: Any) -> VerificationPage:
    fields: dict[str, Any] = {
        "title": "m: int8 <compared> with fp32",
        "verdict": "admitted & well",
        "is_good": True,
        "reference_name": "fp32",
        "candidate_name": "int8",
        "tables": [("Agreement", [("F1", "0.97")]), ("Truth", [("", "fp32", "int8"), ("mAP50", "0.9", "0.8")])],
        "disagreements": [0.0, 2.0, 1.0],
        "worst": [DisagreeingFrame("frame '7'", 2.0, GRAY, wanted, got)],
        "labels": ("person", "car"),
    }
    return VerificationPage(**fields | more)


class Reader(HTMLParser):
    """Collects text, tags and the addresses that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def test_it_holds_figures_and_pictures_and_fetches_nothing() -> None:
    html = render(page())
    found = read(html)
    for told in ("m: int8 <compared> with fp32", "admitted & well", "F1", "0.97", "mAP50", "frame '7'"):
        assert told in found.text
    assert "1 found by both, 1 only by fp32, 0 only by int8" in found.text
    assert [each[:23] for each in found.fetched] == ["data:image/jpeg;base64,"] * 2
    assert not re.search(r"https?:|url\(", html)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(found.fetched[0][23:]), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (480, 640, 3)


def test_each_frame_has_a_bar_as_high_as_its_disagreement() -> None:
    heights = [float(each) for each in re.findall(r"height='([\d.]+)'", render(page()))]
    assert heights == [104.0, 52.0]
    assert "<rect" not in render(page(disagreements=[0.0, 0.0]))


def shown(picture: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    return bool((picture == color).all(axis=-1).any())


def test_what_one_engine_found_alone_stands_out() -> None:
    green, red = (90, 190, 60), (40, 60, 235)
    left, right = draw_pair(DisagreeingFrame("f", 1.0, GRAY, WANTED, GOT), ("person", "car"))
    assert left.shape == right.shape == (480, 640, 3)
    assert (shown(left, green), shown(left, red)) == (True, True)
    assert (shown(right, green), shown(right, red)) == (True, False)
    assert tuple(left[160 + 40, 400]) == red  # the left side of the car, in a picture four times as large
    assert (GRAY == 128).all()


def test_classes_are_listed() -> None:
    found = read(render(page(best(1, 0), best(0, 1))))
    assert "fp32 car 0.90, int8 person 0.90" in found.text
    left, right = draw_pair(DisagreeingFrame("f", 1.0, GRAY, best(1, 0), best()), ())
    assert shown(left, (255, 255, 255))
    assert not shown(right, (255, 255, 255))


def test_boxes_beyond_the_rim_and_pictures_of_any_size_are_drawn() -> None:
    for size in ((1, 1), (3, 2000), (1000, 3)):
        picture = np.zeros((*size, 3), np.uint8)
        found = boxes((0, 0, size[1], size[0], 1.25, 5))
        left, _ = draw_pair(DisagreeingFrame("f", 0.0, picture, found, found), ())
        assert left.shape[0] <= 720
        assert left.shape[1] <= 640


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(tmp_path / "none" / "out.html", page())
    write_report(tmp_path / "out.html", page())
    assert (tmp_path / "out.html").read_text() == render(page())
