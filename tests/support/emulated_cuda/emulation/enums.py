"""TensorRT's enums, with the values of the version that is played: they moved between 10 and 11."""

from __future__ import annotations

import enum
from typing import Any

from emulation.machine import machine

VERSION = machine.controls.tensorrt_version
IS_10 = VERSION.startswith("10.")


def _members(names: str, values: dict[str, int] | None = None) -> dict[str, int]:
    """Number names from 0, but those that have a value of their own."""
    return {name: number for number, name in enumerate(names.split())} | (values or {})


def _enum(name: str, members: dict[str, int]) -> Any:
    return enum.IntEnum(name, members)


DataType: Any = _enum("DataType", _members("FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4"))
DeviceType: Any = _enum("DeviceType", _members("GPU DLA"))
EngineCapability: Any = _enum("EngineCapability", _members("STANDARD SAFETY DLA_STANDALONE"))
ErrorCode: Any = _enum(
    "ErrorCode",
    _members(
        "SUCCESS INTERNAL_ERROR MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED INVALID_VALUE INVALID_GRAPH INVALID_NODE "
        "UNSUPPORTED_GRAPH UNSUPPORTED_NODE UNSUPPORTED_NODE_ATTR UNSUPPORTED_NODE_INPUT UNSUPPORTED_NODE_DATATYPE "
        "UNSUPPORTED_NODE_DYNAMIC UNSUPPORTED_NODE_SHAPE REFIT_FAILED"
    ),
)
ExecutionContextAllocationStrategy: Any = _enum(
    "ExecutionContextAllocationStrategy", _members("STATIC ON_PROFILE_CHANGE USER_MANAGED")
)
HardwareCompatibilityLevel: Any = _enum("HardwareCompatibilityLevel", _members("NONE AMPERE_PLUS"))
LayerInformationFormat: Any = _enum("LayerInformationFormat", _members("ONELINE JSON"))
MemoryPoolType: Any = _enum(
    "MemoryPoolType",
    _members("WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM TACTIC_SHARED_MEMORY"),
)
NetworkDefinitionCreationFlag: Any = _enum(
    "NetworkDefinitionCreationFlag",
    _members("EXPLICIT_BATCH STRONGLY_TYPED") if IS_10 else _members("STRONGLY_TYPED"),
)
OnnxParserFlag: Any = _enum("OnnxParserFlag", _members("NATIVE_INSTANCENORM"))
ProfilingVerbosity: Any = _enum("ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "NONE": 1, "DETAILED": 2})
TensorFormat: Any = _enum(
    "TensorFormat", _members("LINEAR CHW2 HWC8 CHW4 CHW16 CHW32 DHWC8 CDHW32 HWC DLA_LINEAR DLA_HWC4 HWC16 DHWC")
)
TensorIOMode: Any = _enum("TensorIOMode", _members("NONE INPUT OUTPUT"))
TensorLocation: Any = _enum("TensorLocation", _members("DEVICE HOST"))
BuilderFlag: Any = _enum(
    "BuilderFlag",
    _members(
        "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE "
        "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO REJECT_EMPTY_ALGORITHMS VERSION_COMPATIBLE "
        "EXCLUDE_LEAN_RUNTIME FP8 ERROR_ON_TIMING_CACHE_MISS BF16 DISABLE_COMPILATION_CACHE STRIP_PLAN "
        "REFIT_IDENTICAL WEIGHT_STREAMING INT4 REFIT_INDIVIDUAL",
        {"WEIGHTLESS": 19},
    )
    if IS_10
    else {
        "DEBUG": 2,
        "GPU_FALLBACK": 3,
        "REFIT": 4,
        "DISABLE_TIMING_CACHE": 5,
        "TF32": 6,
        "SPARSE_WEIGHTS": 7,
        "SAFETY_SCOPE": 8,
        "DIRECT_IO": 11,
        "VERSION_COMPATIBLE": 12,
        "EXCLUDE_LEAN_RUNTIME": 13,
        "ERROR_ON_TIMING_CACHE_MISS": 15,
        "DISABLE_COMPILATION_CACHE": 17,
        "STRIP_PLAN": 18,
        "REFIT_IDENTICAL": 19,
        "WEIGHT_STREAMING": 20,
        "REFIT_INDIVIDUAL": 22,
    },
)
LayerType: Any = _enum(
    "LayerType",
    _members(
        "CONVOLUTION CAST ACTIVATION POOLING LRN SCALE SOFTMAX DECONVOLUTION CONCATENATION ELEMENTWISE PLUGIN UNARY "
        "PADDING SHUFFLE REDUCE TOPK GATHER MATRIX_MULTIPLY RAGGED_SOFTMAX CONSTANT IDENTITY PLUGIN_V2 SLICE SHAPE "
        "PARAMETRIC_RELU RESIZE TRIP_LIMIT RECURRENCE ITERATOR LOOP_OUTPUT SELECT FILL QUANTIZE DEQUANTIZE CONDITION "
        "CONDITIONAL_INPUT CONDITIONAL_OUTPUT SCATTER EINSUM ASSERTION ONE_HOT NON_ZERO GRID_SAMPLE NMS "
        "REVERSE_SEQUENCE NORMALIZATION PLUGIN_V3"
    ),
)
