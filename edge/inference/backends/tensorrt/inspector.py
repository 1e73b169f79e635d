"""Inspection of a plan on the GPU it was built for: tensors, memory, layers and the time of each layer."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from edge.inference.backends.cuda import open_device
from edge.inference.backends.tensorrt.engine import TrtEngine, TrtSettings
from edge.inference.backends.tensorrt.layers import Inspection, IoTensor, precision_of
from edge.inference.backends.tensorrt.library import load_tensorrt

TIMED_RUNS = 20  # a layer's time is the median of these


def inspect_plan(plan: bytes) -> Inspection:
    """Load a checked plan, run it and describe it; raise EngineError if it cannot be run."""
    trt = load_tensorrt()
    with closing(TrtEngine(plan, open_device(), TrtSettings("inspected"))) as engine:
        cuda_engine = engine.cuda_engine
        with engine.make_context(1) as context:
            times_ms = context.time_layers(TIMED_RUNS)
            inspector = cuda_engine.create_engine_inspector()
            layers_json = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
            del inspector  # before its engine
        specs = [("input", spec) for spec in engine.inputs] + [("output", spec) for spec in engine.outputs]
        tensors = [IoTensor(spec.name, mode, spec.shape, _dtype(cuda_engine, spec.name)) for mode, spec in specs]
        return Inspection(layers_json, tuple(tensors), cuda_engine.device_memory_size_v2, times_ms)


def _dtype(cuda_engine: Any, name: str) -> str:
    dtype: str = cuda_engine.get_tensor_dtype(name).name
    return precision_of(dtype) or dtype
