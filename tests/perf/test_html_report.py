"""Plots and the HTML page, as real files."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edge.core.errors import ConfigError, EdgeError
from edge.perf.bench.html_report import check_page, page, write_page
from edge.perf.bench.plot import plot, svg
from edge.perf.bench.speedup import speedup_sheet
from edge.perf.plotting import check_plot
from tests.support.bench_samples import Rows, tx2_rows, tx2_run

pytest.importorskip("matplotlib")


@pytest.fixture
def rows() -> Rows:
    return tx2_rows()


@pytest.fixture
def run(rows: Rows) -> dict[str, Any]:
    return tx2_run(rows)


def _texts(drawn: str) -> list[str]:
    """Return the texts of an SVG, which matplotlib notes beside the shapes of their letters."""
    return re.findall(r"<!-- (.*?) -->", drawn)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_plots_are_files_of_their_kind(rows: Rows, tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"plot{suffix}"
    plot(rows, path, "Jetson TX2", 7.0)
    assert path.read_bytes().startswith(start)


def test_a_png_is_twice_as_wide_as_a_phone(rows: Rows, tmp_path: Path) -> None:
    plot(rows, tmp_path / "plot.png", "Jetson TX2")
    assert int.from_bytes((tmp_path / "plot.png").read_bytes()[16:20], "big") == 780


def test_lines_axes_and_the_target_are_named(rows: Rows) -> None:
    told = _texts(svg(rows, "Jetson TX2", 7.0))
    assert {"AlexNet max-q", "VGG-19 max-p", "p99 target 7 ms", "images/s", "images/s/W", "128"} <= set(told)
    assert "latency, ms (p99)" in told


def test_where_a_p99_is_missing_the_median_is_drawn_and_named(rows: Rows) -> None:
    rows[0]["latency_p99_ms"] = None
    assert "latency, ms (median)" in _texts(svg(rows, ""))


def test_without_watts_or_rows_that_is_said(rows: Rows) -> None:
    assert "unknown: no power was measured" in _texts(svg([each | {"images_per_s_per_w": None} for each in rows], ""))
    assert "no rows were measured" in _texts(svg([], ""))


def test_rows_that_are_not_to_be_trusted_are_hollow(rows: Rows) -> None:
    assert not any("hollow" in text for text in _texts(svg(rows, "")))
    rows[3]["valid"] = False
    assert any("hollow: not trustworthy" in text for text in _texts(svg(rows, "")))


def test_many_lines_get_panels_of_their_own_by_network(rows: Rows) -> None:
    many = [each | {"precision": precision} for each in rows for precision in ("fp32", "fp16", "int8")]
    told = _texts(svg(many, ""))
    assert told.count("images/s") == 4
    assert "fp32 max-q" in told
    assert "ResNet-50" in told


def test_the_same_rows_give_the_same_drawing(rows: Rows) -> None:
    assert svg(rows, "a", 7.0) == svg(rows, "a", 7.0)


def test_a_plot_that_cannot_be_written_is_told(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(EdgeError, match="cannot be written"):
        plot(rows, tmp_path / "plot.png", "")


def test_what_would_be_wrong_with_a_plot_or_page_is_told_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_plot(tmp_path / "plot.svg")
    check_page(tmp_path / "page.html")
    with pytest.raises(ConfigError, match=r"found suffix '.pdf', wanted one of .png, .svg"):
        check_plot(tmp_path / "plot.pdf")
    with pytest.raises(ConfigError, match="does not exist; create it first"):
        check_page(tmp_path / "nowhere" / "page.html")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install '.\[all\]'"):
        check_plot(tmp_path / "plot.svg")


def test_the_page_stands_without_matplotlib_and_says_what_is_missing(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    text = page(run, "edge bench")
    assert "<svg" not in text
    assert "pip install" in text


class _Page(HTMLParser):
    """Collects what a page would load, and whether its elements are closed."""

    void = frozenset({"meta", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(run: dict[str, Any]) -> None:
    found = _Page()
    found.feed(page(run, "<edge> bench", sheets=[speedup_sheet(run["rows"])]))
    assert found.open == []
    assert all(each.startswith(("#", "data:")) for each in found.loaded)
    assert "script" not in found.seen
    assert "svg" in found.seen


def test_the_page_tells_settings_that_all_rows_share_once_and_why_a_row_is_not_to_be_trusted(
    run: dict[str, Any],
) -> None:
    run["rows"][3].update(valid=False, why="unstable: <something>; stop it")
    text = page(run, "edge bench")
    assert "Measurements, precision fp16, scenario single-stream, lanes 1" in text
    assert "AlexNet fp16 batch 8, single-stream, 1 lane, max-q: unstable: &lt;something&gt;; stop it" in text


def test_the_raw_figures_are_in_the_page(run: dict[str, Any]) -> None:
    text = page(run, "edge bench")
    raw = re.search(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert raw is not None
    assert json.loads(ET.fromstring(f"<pre>{raw[1]}</pre>").text or "") == run


def test_a_run_without_rows_has_a_page() -> None:
    assert "no rows were measured" in page({"machine": {}, "rows": []}, "edge bench")


def test_a_page_that_cannot_be_written_is_told(run: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="cannot be written"):
        write_page(run, tmp_path, "edge bench")
