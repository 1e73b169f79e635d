"""TensorRT engines in tests: on the emulation in host memory, or on a real GPU where there is one."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.core.manifest import InputSettings
from edge.inference.backends.cuda import open_device
from edge.inference.backends.input_tensors import open_sizes_set
from edge.inference.backends.tensorrt.build_progress import Reporter
from edge.inference.backends.tensorrt.build_protocol import BuildRequest, BuildSettings
from edge.inference.backends.tensorrt.builder import build
from edge.inference.backends.tensorrt.engine import TrtEngine, TrtSettings

EMULATION = Path(__file__).with_name("emulated_cuda")
_MODULES = ("tensorrt", "pycuda", "cuda", "emulation")


@contextlib.contextmanager
def emulated_gpu(**controls: Any) -> Iterator[Any]:
    """Put the emulation in the place of TensorRT, pycuda and cuda-bindings; yield its module `emulation`.

    No misuse that it noted may be left at the end.
    """
    with pytest.MonkeyPatch.context() as patch:
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in _MODULES}
        patch.syspath_prepend(EMULATION)
        open_device.cache_clear()
        try:
            emulation: Any = importlib.import_module("emulation")
            for name, value in controls.items():
                setattr(emulation.controls, name, value)
            patch.setenv("PYTHONPATH", os.pathsep.join([str(EMULATION), os.environ.get("PYTHONPATH", "")]))
            for name, value in emulation.controls.as_environment().items():
                patch.setenv(name, value)
            yield emulation
            assert emulation.misuses == []
        finally:
            open_device.cache_clear()
            for name in list(sys.modules):
                if name.split(".")[0] in _MODULES:
                    del sys.modules[name]
            sys.modules.update(hidden)


def build_plan_here(onnx: Path, folder: Path, max_batch: int, inputs: InputSettings | None = None) -> bytes:
    """Build a plan in this process."""
    request = BuildRequest(
        onnx=onnx,
        fp32_onnx=onnx,
        settings=BuildSettings("fp32", "gpu", max_batch, 3, 64, open_sizes_set(onnx, inputs)),
        plan=folder / "built.plan",
        tactic_mb=None,
        timing_folder=folder,
        machine=None,
        log_level=30,
    )
    build(request, Reporter(lambda _line: None))
    return request.plan.read_bytes()


def load(plan: bytes, **settings: Any) -> TrtEngine:
    return TrtEngine(plan, open_device(), TrtSettings(**{"label": "trt/fp32/0123456789ab"} | settings))


def build_and_load(onnx: Path, folder: Path, max_batch: int, **settings: Any) -> TrtEngine:
    """Build an engine in this process, and load it."""
    return load(build_plan_here(onnx, folder, max_batch, settings.get("inputs")), **settings)
