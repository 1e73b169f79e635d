"""Build of a TensorRT plan on request, outside a daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.config import EnginesSettings
from edge.core.errors import EngineError
from edge.inference.backends.cuda import Gpu, find_gpu
from edge.inference.backends.tensorrt.build_process import build_plan
from edge.inference.backends.tensorrt.build_protocol import BuildSettings, BuiltPlan
from edge.inference.backends.tensorrt.library import check_installed, library_name, load_tensorrt
from edge.inference.backends.tensorrt.plan_key import PlanKey, plan_key
from edge.inference.backends.tensorrt.plan_store import PlanStore, StalePlanError
from edge.inference.model_variants import Precision, plan_sha256, variant_file

log = logging.getLogger(__name__)

ANY_GPU = "any"


@dataclass(frozen=True)
class PlanRequest:
    """A plan to build, or to find in the store."""

    onnx: Path  # FP32
    precision: Precision
    settings: BuildSettings
    gpu: Gpu | None
    board: str
    state_dir: Path


def build(request: PlanRequest, on_progress: Callable[[str, float], None]) -> dict[str, Any]:
    """Build the plan unless it is stored already; return its path and its manifest.

    `on_progress` is called with the phase and its finished fraction.
    """
    store = PlanStore(request.state_dir, EnginesSettings().cache_mb)
    sha256 = plan_sha256(request.onnx, request.precision, request.state_dir)
    key = plan_key(sha256, request.settings, request.gpu, request.board)
    is_stored = _is_stored(store, key)
    if not is_stored:
        store.store(key, _build(request, on_progress))
    path, manifest = store.path(key), store.manifest(key)
    if path is None or manifest is None:
        raise EngineError(
            f"the plan of {request.onnx} has disappeared from {store.folder}; another program removed it: try again"
        )
    return {"plan": str(path), "built_now": not is_stored, **manifest}


def target_gpu(target: str | None) -> Gpu | None:
    """Return this machine's GPU, or None for a plan for any GPU, where `target` is ANY_GPU.

    Raises EngineError where there is no GPU to build for, or the library builds for its own only.
    """
    check_installed()
    if target == ANY_GPU:
        if (library := library_name(load_tensorrt())) != "tensorrt-rtx":
            raise EngineError(f"--for {target}: {library} builds for the GPU it runs on; wanted TensorRT-RTX for any")
        return None
    try:
        return find_gpu()
    except EngineError as error:
        raise EngineError(
            f"no engine can be built for this machine: {error}; TensorRT-RTX builds one for another machine with "
            f"`--for {ANY_GPU}`"
        ) from None


def _is_stored(store: PlanStore, key: PlanKey) -> bool:
    try:
        store.load(key)
    except StalePlanError as error:
        log.info("%s", error)
        return False
    return True


def _build(request: PlanRequest, on_progress: Callable[[str, float], None]) -> BuiltPlan:
    on_progress("converting", 0.0)
    return build_plan(
        variant_file(request.onnx, request.precision, "trt", request.state_dir),
        request.settings,
        request.gpu,
        request.state_dir,
        progress=on_progress,
        cancelled=lambda: False,  # Ctrl-C ends it
        board=request.board,
        fp32_onnx=request.onnx,
    )
