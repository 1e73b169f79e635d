"""What the module `tensorrt` offers."""

from __future__ import annotations

from typing import Any

import numpy as np

from emulation.bound import (
    Dims,
    IHostMemory,
    ILogger,
    IOutputAllocator,
    IProfiler,
    IProgressMonitor,
    Logger,
)
from emulation.builder import Builder
from emulation.config import IBuilderConfig, IOptimizationProfile, ITimingCache
from emulation.definition import ILayer, INetworkDefinition, ITensor, OnnxParser, ParserError
from emulation.enums import (
    VERSION,
    BuilderFlag,
    DataType,
    DeviceType,
    EngineCapability,
    ErrorCode,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    LayerInformationFormat,
    LayerType,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParserFlag,
    ProfilingVerbosity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from emulation.execution import IExecutionContext
from emulation.layers import EngineInspector
from emulation.network import NUMPY
from emulation.runtime import ICudaEngine, Runtime

__version__ = VERSION

float32, float16, int8 = DataType.FLOAT, DataType.HALF, DataType.INT8
int32, int64, uint8, bool = DataType.INT32, DataType.INT64, DataType.UINT8, DataType.BOOL  # noqa: A001 -- TensorRT's


def nptype(trt_type: Any) -> Any:
    if trt_type.name not in NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return NUMPY[trt_type.name].type


def volume(iterable: Any) -> int:
    return int(np.prod(tuple(iterable)))


__all__ = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "DeviceType",
    "Dims",
    "EngineCapability",
    "EngineInspector",
    "ErrorCode",
    "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IOutputAllocator",
    "IProfiler",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "LayerType",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "OnnxParserFlag",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
    "__version__",
    "bool",
    "float16",
    "float32",
    "int8",
    "int32",
    "int64",
    "nptype",
    "uint8",
    "volume",
]
