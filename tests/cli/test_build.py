"""`edge engines build`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import TaskProgressColumn

from edge.cli.main import main
from edge.core import progress
from edge.inference import plan_build
from tests.support import stand_in_tensorrt
from tests.support.absent_gpu import NO_GPU, absent_gpu
from tests.support.project import conveyor_copy


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a copy of the built-in model, as its FP16 form is written beside it."""
    return conveyor_copy(tmp_path, "*.fp16.onnx", "*.py")


def test_without_a_gpu_only_the_library_that_needs_none_builds(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_build, "load_tensorrt", lambda: stand_in_tensorrt)
    monkeypatch.setattr(plan_build, "find_gpu", absent_gpu)
    assert main(["engines", "build", str(model), "--state-dir", str(tmp_path / "state")]) == 1
    assert NO_GPU in capsys.readouterr().err


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    for is_terminal in (True, False):
        output = io.StringIO()

        def console(output: io.StringIO = output, *, is_terminal: bool = is_terminal, **_: Any) -> Console:
            return Console(file=output, force_terminal=is_terminal, width=120)

        monkeypatch.setattr(progress, "Console", console)
        with progress.phase_bar("conveyor fp16", TaskProgressColumn()) as told:
            told("timing kernels", 0.5, 1.0)
        drawn[is_terminal] = output.getvalue()
    assert "conveyor fp16" in drawn[True]
    assert "timing kernels" in drawn[True]
    assert "50%" in drawn[True]
    assert drawn[False] == ""
