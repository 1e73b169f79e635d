"""Plan builds in a separate process, which isolates the daemon from the builder's crashes and memory use."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import psutil

from edge.core.errors import EngineError, GpuMemoryError
from edge.core.files import unfinished_writes
from edge.inference.backends.cuda import Gpu
from edge.inference.backends.tensorrt.build_protocol import (
    CANCELLED_EXIT_CODE,
    FAILURES,
    MB,
    BuildCancelled,
    BuildFacts,
    BuildRequest,
    BuildSettings,
    BuiltPlan,
)

log = logging.getLogger(__name__)

PhaseCallback = Callable[[str, float], None]  # phase, fraction done (0…1)

# Estimated memory of a builder, from its peak resident size on a PC without a GPU: 0.2 GB for a small model, and 3
# times its file more for one of 100 MB (parsed file, network weights, plan). A CUDA context, its kernels and the copies
# of the plan on its way to us come on top.
BASE_MB = 600
COPIES = 5  # of the ONNX file
KEPT_FREE_MB = 300  # for the daemon and its cameras, at any moment of a build
MIN_WORKSPACE_MB, MAX_WORKSPACE_MB = 64, 4096
_WORKSPACE_DIVISOR = 16  # of the GPU's memory: half a GB of 8, which the largest convolutions need
_TACTIC_DIVISOR = 4  # likewise: TensorRT's default limit, 3/4, leaves too little for CPU and cameras
_POLL_S = 0.1
_GRACE_S = 1.0  # from a cancellation until the builder is killed
_LINES_KEPT = 20  # of the builder's standard error
_LINES_SHOWN = 3


def build_plan(
    onnx: Path,
    settings: BuildSettings,
    gpu: Gpu | None,
    state_dir: Path,
    *,
    progress: PhaseCallback,
    cancelled: Callable[[], bool],
    board: str = "",
    fp32_onnx: Path | None = None,
) -> BuiltPlan:
    """Build a plan of an ONNX file, whose types are those of the precision.

    `cancelled` is polled several times a second. `fp32_onnx` is the model before its conversion, for versions of
    TensorRT that can choose types themselves. Raises EngineError; of it, UnsupportedModelError if another engine may
    support the model, GpuMemoryError if memory ran out twice, and BuildCancelled.
    """
    _check_memory(onnx, settings, gpu)
    rising = _RisingProgress(progress)
    request = BuildRequest(
        onnx=onnx.absolute(),
        fp32_onnx=(fp32_onnx or onnx).absolute(),
        settings=settings,
        plan=Path(os.devnull),
        tactic_mb=_tactic_mb(settings, gpu),
        timing_folder=state_dir.absolute() / "timing",
        machine=f"{gpu.name}-{gpu.architecture}-{gpu.sm_count}sm-{board}" if gpu else None,
        log_level=logging.getLogger().getEffectiveLevel(),
    )
    try:
        return _build_once(request, rising.report, cancelled)
    except GpuMemoryError as error:
        half_mb = max(settings.workspace_mb // 2, 1)
        log.warning("%s; retrying once with a workspace of %d MB", error, half_mb)
    smaller = replace(settings, workspace_mb=half_mb)
    return _build_once(replace(request, settings=smaller, tactic_mb=_tactic_mb(smaller, gpu)), rising.report, cancelled)


def default_workspace_mb(memory_bytes: int) -> int:
    """Return the scratch memory that a layer may use on a GPU with `memory_bytes`, which CPU and cameras may share.

    It is a power of two: plans depend on it, and the memory that a board reports varies slightly between kernels.
    """
    fraction_mb = max(memory_bytes // MB // _WORKSPACE_DIVISOR, 1)
    return min(max(1 << round(math.log2(fraction_mb)), MIN_WORKSPACE_MB), MAX_WORKSPACE_MB)


def needed_mb(onnx: Path, settings: BuildSettings, gpu: Gpu | None) -> int:
    """Estimate the CPU memory of a build; on a GPU that shares it, the workspace is included."""
    shared_mb = settings.workspace_mb if gpu is not None and gpu.integrated else 0
    return BASE_MB + COPIES * _size_mb(onnx) + shared_mb


def _size_mb(onnx: Path) -> int:
    try:
        return onnx.stat().st_size // MB
    except OSError as error:
        raise EngineError(f"{onnx} cannot be read ({error.strerror}); wanted an ONNX file") from None


def _tactic_mb(settings: BuildSettings, gpu: Gpu | None) -> int | None:
    if gpu is None or not gpu.integrated:
        return None
    return max(gpu.memory_bytes // MB // _TACTIC_DIVISOR, 2 * settings.workspace_mb)


def _free_mb() -> int:
    return int(psutil.virtual_memory().available) // MB


def _check_memory(onnx: Path, settings: BuildSettings, gpu: Gpu | None) -> None:
    required_mb = needed_mb(onnx, settings, gpu) + KEPT_FREE_MB
    free_mb = _free_mb()
    if free_mb < required_mb:
        raise GpuMemoryError(
            f"model {onnx.name} cannot be built now: found {free_mb} MB of free memory, wanted {required_mb} MB "
            f"(estimated from the model's size, a workspace of {settings.workspace_mb} MB, and {KEPT_FREE_MB} MB kept "
            "free); close other programs, or lower [engines] workspace_mb"
        )


class _RisingProgress:
    """Progress over several attempts, which never decreases."""

    def __init__(self, progress: PhaseCallback) -> None:
        self._progress = progress
        self._fraction = 0.0

    def report(self, phase: str, fraction: float) -> None:
        self._fraction = max(self._fraction, fraction)
        self._progress(phase, self._fraction)


def _build_once(request: BuildRequest, progress: PhaseCallback, cancelled: Callable[[], bool]) -> BuiltPlan:
    # The plan is passed in memory: no file is left behind, and a full disk does not matter.
    plan_fd = os.memfd_create("plan")
    try:
        request = replace(request, plan=Path(f"/dev/fd/{plan_fd}"))
        with _BuilderProcess(request, plan_fd, progress) as process:
            facts = process.follow(cancelled)
        with open(plan_fd, "rb", closefd=False) as file:
            return BuiltPlan(request.fp32_onnx.stem, file.read(), facts)
    finally:
        os.close(plan_fd)


class _BuilderProcess:
    """The builder process, from its start to its end, however it ends."""

    def __init__(self, request: BuildRequest, plan_fd: int, progress: PhaseCallback) -> None:
        self._request = request
        self._name = request.onnx.name
        self._plan_fd = plan_fd
        self._progress = progress
        self._answer: Mapping[str, Any] = {}
        self._last_lines: deque[str] = deque(maxlen=_LINES_KEPT)

    def __enter__(self) -> _BuilderProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge.inference.backends.tensorrt.build_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(self._plan_fd,),
            start_new_session=True,  # Ctrl-C in a terminal reaches only us; we end the builder
        )
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._stdin, self._stdout, self._stderr = (cast("IO[bytes]", pipe) for pipe in pipes)
        with contextlib.suppress(BrokenPipeError):  # it has died; `follow` reports how
            self._stdin.write(self._request.to_json())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the builder: by request first, so that it saves its kernel timings, and by a kill soon after."""
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        self._wait()
        for unfinished in unfinished_writes(self._request.timing_folder, self._process.pid):
            unfinished.unlink(missing_ok=True)

    def _wait(self) -> int:
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def follow(self, cancelled: Callable[[], bool]) -> BuildFacts:
        """Forward progress until the builder ends; return the facts of the plan."""
        with selectors.DefaultSelector() as selector:
            for pipe, on_line in ((self._stdout, self._on_answer), (self._stderr, self._on_log_line)):
                selector.register(pipe, selectors.EVENT_READ, _LineReader(on_line))
            while selector.get_map():
                for key, _ in selector.select(_POLL_S):
                    if not key.data.read(key.fd):
                        selector.unregister(key.fileobj)
                if cancelled():
                    raise self._cancelled()
                self._watch_memory()
        return self._outcome()

    def _cancelled(self) -> BuildCancelled:
        return BuildCancelled(f"model {self._name}: the build was cancelled")

    def _on_answer(self, line: bytes) -> None:
        answer = json.loads(line)
        if "phase" in answer:
            self._progress(answer["phase"], answer["fraction"])
        else:
            self._answer = answer

    def _on_log_line(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        log.debug("builder: %s", text)
        self._last_lines.append(text)

    def _watch_memory(self) -> None:
        """Kill the builder before the machine runs out of memory."""
        free_mb = _free_mb()
        if free_mb < KEPT_FREE_MB:
            self._process.kill()
            raise GpuMemoryError(
                f"model {self._name}: its builder was stopped because it left only {free_mb} MB of memory free, wanted "
                f"{KEPT_FREE_MB}; close other programs, or lower [engines] workspace_mb"
            )

    def _outcome(self) -> BuildFacts:
        if "facts" in self._answer:
            return BuildFacts.from_json(self._answer["facts"])
        if "error" in self._answer:
            raise FAILURES[self._answer["kind"]](self._answer["error"])
        raise self._death(self._wait())

    def _death(self, code: int) -> EngineError:
        """Return the error for a builder that exited without an answer."""
        if code == CANCELLED_EXIT_CODE:
            return self._cancelled()
        output = f" (its output: {'; '.join(list(self._last_lines)[-_LINES_SHOWN:])})" if self._last_lines else ""
        if code == -signal.SIGKILL:
            return GpuMemoryError(
                f"model {self._name}: the builder was killed by signal 9 (out of memory?){output}; close other "
                "programs, or lower [engines] workspace_mb"
            )
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exited with code {code}"
        return EngineError(
            f"model {self._name}: the builder {how}{output}; see --log-level debug, and until it builds set backend to "
            "onnxruntime"
        )


class _LineReader:
    """Splits a pipe's output into lines."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def read(self, fd: int) -> bool:
        """Pass on the lines that have arrived; return False at the end of the pipe."""
        data = os.read(fd, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines if data else [*lines, self._rest]:
            if line:
                self._on_line(line)
        return bool(data)
