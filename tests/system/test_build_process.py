"""Builder processes: their rank, their end, their crashes, and what is tried again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge.core.errors import EngineError, GpuMemoryError
from edge.inference.backends.cuda import Gpu
from edge.inference.backends.tensorrt import build_process
from edge.inference.backends.tensorrt.build_process import (
    KEPT_FREE_MB,
    build_plan,
)
from edge.inference.backends.tensorrt.build_protocol import (
    BuildCancelled,
    BuildSettings,
    BuiltPlan,
    UnsupportedModelError,
)
from tests.support import stand_in_tensorrt
from tests.support.plan_samples import ORIN
from tests.support.project import CONVEYOR, ROOT
from tests.support.real_tensorrt import real_tensorrt
from tests.support.waiting import PATIENCE_S, eventually

SETTINGS = BuildSettings("fp32", "gpu", max_batch=4, builder_level=3, workspace_mb=160)
Told = list[tuple[str, float]]


class Trouble:
    """Runs a build with the stand-in for TensorRT, which then behaves as it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state_dir = folder / "state"
        self.onnx = folder / "model.onnx"
        self.onnx.write_bytes(b"the stand-in reads no model")
        self.told: Told = []
        modules = folder / "modules"
        modules.mkdir()
        shutil.copy(stand_in_tensorrt.__file__, modules / "tensorrt.py")
        monkeypatch.setenv("PYTHONPATH", f"{modules}:{ROOT}")
        self._monkeypatch = monkeypatch

    def build(
        self,
        behaviour: str,
        *,
        settings: BuildSettings = SETTINGS,
        gpu: Gpu | None = ORIN,
        act: Callable[[psutil.Process], object] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> BuiltPlan:
        """Build; once TensorRT is at work, `act` gets the builder's process."""
        self._monkeypatch.setenv("STAND_IN", behaviour)

        def progress(phase: str, fraction: float) -> None:
            self.told.append((phase, fraction))
            if phase == "Building":
                act(builder())

        return build_plan(self.onnx, settings, gpu, self.state_dir, progress=progress, cancelled=cancelled, board="b")


def builder() -> psutil.Process:
    (child,) = psutil.Process().children()
    return child


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trouble]:
    """Give what runs builds; whatever happens, no process, descriptor or file may be left."""
    descriptors = psutil.Process().num_fds()
    yield Trouble(tmp_path, monkeypatch)
    assert psutil.Process().children() == []
    assert psutil.Process().num_fds() <= descriptors  # fewer where those of an earlier test were collected meanwhile
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def real(tmp_path: Path) -> Callable[..., BuiltPlan]:
    """Give a function that builds with NVIDIA's library; skip the test where there is none."""
    real_tensorrt()

    def build(onnx: Path, progress: Callable[[str, float], None] = lambda *_: None, **keys: Any) -> BuiltPlan:
        keys = {"cancelled": lambda: False} | keys
        return build_plan(onnx, SETTINGS, None, tmp_path, progress=progress, **keys)

    return build


def test_a_plan_comes_back_with_what_is_told_of_it(real: Callable[..., BuiltPlan]) -> None:
    told: Told = []
    built = real(CONVEYOR / "conveyor.onnx", lambda *each: told.append(each))
    assert (built.name, built.facts.workspace_mb) == ("conveyor", 160)
    assert built.plan[:4] in (b"ftrt", b"vtrt")
    assert "STRONGLY_TYPED" in built.facts.flags
    fractions = [fraction for _, fraction in told]
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert fractions == sorted(fractions)


def test_a_model_that_tensorrt_does_not_take_is_told_apart(real: Callable[..., BuiltPlan], tmp_path: Path) -> None:
    content = (CONVEYOR / "conveyor.onnx").read_bytes()
    path = tmp_path / "odd.onnx"
    path.write_bytes(content.replace(b"Concat", b"Kitten"))
    with pytest.raises(UnsupportedModelError, match="does not know operator Kitten"):
        real(path)


def test_a_real_build_is_cancelled(real: Callable[..., BuiltPlan]) -> None:
    told: Told = []
    with pytest.raises(BuildCancelled, match=r"model conveyor\.onnx: the build was cancelled"):
        real(CONVEYOR / "conveyor.onnx", lambda *each: told.append(each), cancelled=lambda: len(told) > 2)
    assert psutil.Process().children() == []


def test_the_builder_stands_back_and_would_be_the_first_to_go(trouble: Trouble) -> None:
    seen: dict[str, Any] = {}

    def look(process: psutil.Process) -> None:
        score = Path(f"/proc/{process.pid}/oom_score_adj").read_text(encoding="ascii").strip()
        seen.update(nice=process.nice(), oom=score, io=process.ionice().ioclass, group=os.getpgid(process.pid))
        process.kill()

    with pytest.raises(GpuMemoryError):
        trouble.build("hang", act=look)
    assert (seen["nice"], seen["oom"], seen["io"]) == (19, "1000", psutil.IOPRIO_CLASS_IDLE)
    assert seen["group"] != os.getpgrp()


def test_what_the_library_prints_does_not_disturb(trouble: Trouble) -> None:
    assert trouble.build("chatter").plan == stand_in_tensorrt.PLAN


def test_a_hanging_builder_ends_at_once_when_it_is_cancelled(trouble: Trouble) -> None:
    with pytest.raises(BuildCancelled):
        trouble.build("hang", cancelled=lambda: bool(trouble.told))


def test_a_builder_that_does_not_even_listen_is_killed(trouble: Trouble) -> None:
    stopped: list[psutil.Process] = []

    def stop(process: psutil.Process) -> None:
        process.suspend()
        stopped.append(process)

    with pytest.raises(BuildCancelled):
        trouble.build("hang", act=stop, cancelled=lambda: bool(stopped))
    assert not is_alive(stopped[0])


def test_ctrl_c_ends_the_builder(trouble: Trouble) -> None:
    def interrupt(_: psutil.Process) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trouble.build("hang", act=interrupt)


def test_a_builder_that_is_asked_to_end_does_so_whatever_the_library_is_at(trouble: Trouble) -> None:
    with pytest.raises(BuildCancelled):
        trouble.build("hang", act=lambda process: process.terminate())


def test_a_crash_of_the_library_is_told_with_its_last_words(trouble: Trouble) -> None:
    with pytest.raises(EngineError) as caught:
        trouble.build("crash")
    assert not isinstance(caught.value, GpuMemoryError)
    told = str(caught.value)
    assert told.startswith("model model.onnx: the builder was killed by signal 11 (SIGSEGV)")
    assert "something odd happened" in told
    assert told.endswith("set backend to onnxruntime")


def test_a_builder_that_is_killed_is_tried_once_more_and_told(trouble: Trouble) -> None:
    starts: list[int] = []
    with pytest.raises(GpuMemoryError, match=r"was killed by signal 9 \(out of memory\?\)"):
        trouble.build("killed", act=lambda process: starts.append(process.pid))
    assert len(set(starts)) == 2


def test_the_second_try_has_half_the_workspace(trouble: Trouble) -> None:
    built = trouble.build("starve")
    assert built.facts.workspace_mb == 80
    fractions = [fraction for _, fraction in trouble.told]
    assert fractions == sorted(fractions)


def test_a_third_try_is_not_made(trouble: Trouble) -> None:
    with pytest.raises(GpuMemoryError, match=r"ran out .* workspace of 150 MB .*could not be allocated"):
        trouble.build("starve", settings=BuildSettings("fp32", "gpu", 4, 3, 300))


def test_no_build_starts_without_the_memory_for_it(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_process, "_free_mb", lambda: 1059)
    with pytest.raises(GpuMemoryError) as caught:
        trouble.build("")
    assert "found 1059 MB of free memory, wanted 1060 MB (estimated from the model's size" in str(caught.value)
    assert trouble.told == []
    monkeypatch.setattr(build_process, "_free_mb", lambda: 1060)
    assert trouble.build("").plan == stand_in_tensorrt.PLAN


def test_a_gpu_with_memory_of_its_own_takes_its_workspace_from_there(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_process, "_free_mb", lambda: 900)
    assert trouble.build("", gpu=replace(ORIN, integrated=False)).plan == stand_in_tensorrt.PLAN


def test_a_builder_that_leaves_too_little_memory_is_ended_and_tried_with_less(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    low_mb: list[int] = []
    monkeypatch.setattr(build_process, "_free_mb", lambda: low_mb.pop() if low_mb else 8000)

    def eat(_: psutil.Process) -> None:
        if not caplog.messages:
            low_mb.append(KEPT_FREE_MB - 1)
            monkeypatch.setenv("STAND_IN", "")  # for the second builder

    assert trouble.build("hang", act=eat).facts.workspace_mb == 80
    assert f"left only {KEPT_FREE_MB - 1} MB of memory free, wanted {KEPT_FREE_MB}" in caplog.text


def test_a_missing_file_is_told(trouble: Trouble) -> None:
    trouble.onnx.unlink()
    with pytest.raises(EngineError, match=r"cannot be read .*wanted an ONNX file"):
        trouble.build("")


def test_an_unfinished_timing_cache_does_not_stay(trouble: Trouble) -> None:
    def leave(process: psutil.Process) -> None:
        folder = trouble.state_dir / "timing"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".x.cache.{process.pid}.0a1b2c3d.tmp").write_text("half", encoding="utf-8")
        process.send_signal(signal.SIGSEGV)

    with pytest.raises(EngineError, match="signal 11"):
        trouble.build("hang", act=leave)


PARENT = """
import sys
from pathlib import Path
from edge.inference.backends.tensorrt.build_process import build_plan
from edge.inference.backends.tensorrt.build_protocol import BuildSettings

def progress(phase, fraction):
    print(phase, flush=True)

settings = BuildSettings("fp32", "gpu", 4, 3, 160)
build_plan(Path(sys.argv[1]), settings, None, Path(sys.argv[2]), progress=progress, cancelled=lambda: False)
"""


def test_when_its_parent_is_killed_the_builder_ends(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "hang")
    command = [sys.executable, "-c", PARENT, str(trouble.onnx), str(trouble.state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert any(line.strip() == "Building" for line in parent.stdout)
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        parent.wait(PATIENCE_S)
    eventually(lambda: not is_alive(child), "the builder ends")


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        # Where nobody takes over orphans, one that has ended stays as a zombie.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
