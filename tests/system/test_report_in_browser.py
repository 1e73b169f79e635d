"""Benchmark report in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge.perf.bench.html_report import write_page
from edge.perf.bench.published import paired, published_sheet
from edge.perf.bench.speedup import speedup_sheet
from tests.support.bench_samples import tx2_rows, tx2_run

pytest.importorskip("matplotlib")
PATIENCE_S = 120.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1300])
def test_a_browser_shows_the_page_with_no_word_in_its_console(tmp_path: Path, width: int) -> None:
    run = tx2_run(tx2_rows())
    sheets = [published_sheet(paired(run["rows"], "tx2")), speedup_sheet(run["rows"])]
    write_page(run, tmp_path / "page.html", "edge bench", sheets=sheets, target_p99_ms=7.0)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", f"--window-size={width},1500", "--hide-scrollbars"]
    command += [f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "CONSOLE" not in done.stderr
    png = (tmp_path / "page.png").read_bytes()
    assert int.from_bytes(png[16:20], "big") == width
    assert len(png) > 50_000  # something is drawn
