"""`edge engines build`: a model's TensorRT plan for this machine, built or found."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import TaskProgressColumn

from edge.core.config import EnginesSettings
from edge.core.errors import ConfigError, EngineError
from edge.core.manifest import find_model, model_file, read_manifest
from edge.core.progress import phase_bar
from edge.core.state_dir import default_state_dir
from edge.host.board import board_name
from edge.inference.backends.cuda import Gpu, find_gpu
from edge.inference.backends.tensorrt.build_process import build_plan
from edge.inference.backends.tensorrt.build_protocol import MB, BuildSettings, BuiltPlan
from edge.inference.backends.tensorrt.library import library_name, load_tensorrt
from edge.inference.backends.tensorrt.plan_key import PlanKey, plan_key
from edge.inference.backends.tensorrt.plan_store import PlanStore, StalePlanError
from edge.inference.engine_provider import build_settings
from edge.inference.model_variants import Precision, plan_sha256, variant_file

log = logging.getLogger(__name__)

_LARGEST_BATCH = 1024  # as in the configuration


@dataclass(frozen=True)
class PlanRequest:
    """A plan that is wanted."""

    onnx: Path  # FP32
    precision: Precision
    settings: BuildSettings
    gpu: Gpu | None
    board: str
    state_dir: Path


def run(model: str, *, precision: Precision, max_batch: int, device: str, state_dir: Path | None, as_json: bool) -> int:
    """Build the plan, unless it is kept already, and tell where it is."""
    if not 1 <= max_batch <= _LARGEST_BATCH:
        raise ConfigError(f"--max-batch: found {max_batch}, wanted 1 to {_LARGEST_BATCH}")
    folder = find_model(model)
    onnx = model_file(folder, read_manifest(folder))
    gpu = _target()
    settings = _settings(precision, device, max_batch, gpu)
    result = build(PlanRequest(onnx, precision, settings, gpu, board_name(), state_dir or default_state_dir()))
    if as_json:
        print(json.dumps(result))  # noqa: T201 -- the command's output
    else:
        _show(result)
    return 0


def build(order: PlanRequest) -> dict[str, Any]:
    """Build the plan, unless it is kept already; return what its manifest tells, and where it is."""
    store = PlanStore(order.state_dir, EnginesSettings().cache_mb)
    sha256 = plan_sha256(order.onnx, order.precision, order.state_dir)
    key = plan_key(sha256, order.settings, order.gpu, order.board)
    is_kept = _is_kept(store, key)
    if not is_kept:
        store.store(key, _build(order))
    path, manifest = store.path(key), store.manifest(key)
    if path is None or manifest is None:
        raise EngineError(
            f"the plan of {order.onnx} is gone from {store.folder}; another program removed it: try again"
        )
    return {"plan": str(path), "built_now": not is_kept, **manifest}


def _target() -> Gpu | None:
    """Return the GPU to build for; None where there is none, and the library is TensorRT-RTX, which needs none."""
    trt = load_tensorrt()
    try:
        return find_gpu()
    except EngineError:
        if library_name(trt) != "tensorrt-rtx":
            raise
        return None


def _settings(precision: str, device: str, max_batch: int, gpu: Gpu | None) -> BuildSettings:
    """Return what the daemon would build with, where its configuration leaves [engines] as it is."""
    memory_bytes = gpu.memory_bytes if gpu else psutil.virtual_memory().total
    return build_settings(precision, device, max_batch, EnginesSettings(), memory_bytes)


def _is_kept(store: PlanStore, key: PlanKey) -> bool:
    try:
        store.load(key)
    except StalePlanError as error:
        log.info("%s", error)
        return False
    return True


def _build(order: PlanRequest) -> BuiltPlan:
    onnx = order.onnx
    with phase_bar(f"{onnx.stem} {order.settings.precision}", TaskProgressColumn()) as told:
        told("converting", 0.0, 1.0)
        typed = variant_file(onnx, order.precision, "trt", order.state_dir)
        return build_plan(
            typed,
            order.settings,
            order.gpu,
            order.state_dir,
            progress=lambda phase, fraction: told(phase, fraction, 1.0),
            cancelled=lambda: False,  # Ctrl-C ends it
            board=order.board,
            fp32_onnx=onnx,
        )


def _show(result: dict[str, Any]) -> None:
    key, built = result["key"], result["built"]
    console = Console(soft_wrap=True, highlight=False)

    def line(text: str) -> None:
        console.print(text, markup=False)

    line(f"{'built' if result['built_now'] else 'found, built before'}: {result['plan']}")
    line(
        f"{result['size'] / MB:.1f} MB, {built['layers']} network layers, built in {built['build_s']:.1f} s with "
        f"{key['library']} {key['version']} ({', '.join(built['flags'])})"
    )
    target = f"{key['gpu']}, compute capability {key['compute_capability']}" if key["gpu"] else "no certain GPU"
    line(f"for {target}, on {key['board']}")
    if not key["gpu"]:
        line("no GPU was found here: TensorRT-RTX builds without one, and the plan fits any that it supports")
    if placement := built["placement"]:
        line(f"{placement['dla']} layers on the DLA, {len(placement['gpu'])} on the GPU: {', '.join(placement['gpu'])}")
