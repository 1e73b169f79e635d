"""`edge bench` where there is no room for what it writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.process import clean_environment, edge_command
from tests.support.waiting import PATIENCE_S

QUICK = ("bench", "conveyor", "--engine-only", "--frames", "20", "--quick")


def bench(folder: Path, shell: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it as the last command of a shell's line, which may set limits or send the output somewhere."""
    command = ["bash", "-c", shell, "bash", *edge_command(*QUICK, "--state-dir", folder / "state", *arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=folder, env=clean_environment()
    )


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",), ("--markdown",)])
def test_report_without_room_is_one_sentence_and_the_page_is_still_written(tmp_path: Path, form: tuple[str]) -> None:
    done = bench(tmp_path, 'exec "$@" > /dev/full', *form, "--html", tmp_path / "page.html")
    assert done.returncode == 1
    (reason,) = (line for line in done.stderr.splitlines() if line != f"written to {tmp_path / 'page.html'}")
    assert reason.startswith("edge: the report cannot be written to standard output (No space left on device); ")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize(("option", "name"), [("--html", "page.html"), ("--plot", "plot.png"), ("--plot", "plot.svg")])
def test_file_without_room_leaves_the_one_from_before(tmp_path: Path, option: str, name: str) -> None:
    """The shell bounds files to 1 kB: so the system's own refusal comes in the midst of writing."""
    if option == "--plot":
        pytest.importorskip("matplotlib")
    (tmp_path / "before").mkdir()
    place = tmp_path / "before" / name
    place.write_text("the one from before", encoding="utf-8")
    done = bench(tmp_path, 'ulimit -f 1; exec "$@"', option, place)
    assert done.returncode == 1
    sentence = f"{option} {place} cannot be written (File too large); check the folder's permissions and the free space"
    assert sentence in done.stderr
    assert "images/s" in done.stdout, "what was measured is told all the same"
    assert list(place.parent.iterdir()) == [place]
    assert place.read_text(encoding="utf-8") == "the one from before"
