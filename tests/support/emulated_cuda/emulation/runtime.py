"""The runtime half of TensorRT, up to its execution contexts: plans are checked and loaded."""
# ruff: noqa: ARG002, N802 -- names and parameters are the real library's

from __future__ import annotations

import sys
from typing import Any

from emulation import plan as plans
from emulation.bound import (
    Bound,
    Dims,
    IHostMemory,
    ILogger,
    Level,
    require_made,
    tell,
)
from emulation.enums import (
    VERSION,
    DataType,
    ExecutionContextAllocationStrategy,
    ProfilingVerbosity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from emulation.errors import Code, CudaFailure
from emulation.execution import IExecutionContext, scratch_bytes
from emulation.layers import EngineInspector, Fused, fuse
from emulation.machine import machine
from emulation.memory import Region
from emulation.network import NUMPY, Computation, Model, Tensor
from emulation.plan import Plan, PlanRefused


class Runtime(Bound):
    """Loads plans."""

    DLA_core = -1
    max_threads = 1
    error_recorder: Any = None
    engine_host_code_allowed = False
    temporary_directory: Any = None
    tempfile_control_flags = 0

    def __init__(self, logger: ILogger) -> None:
        require_made(logger, ILogger)
        self._logger = logger

    @property
    def logger(self) -> ILogger:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:
        return machine.dla_cores

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """Return the engine; None, and a line for the log, where it cannot be loaded."""
        content = bytes(memoryview(serialized_engine))
        try:
            machine.check()
            if machine.controls.deserialize_fails:
                raise PlanRefused("Error Code 4: Internal Error (Engine deserialization failed.)")
            plan = plans.parse(content, plans.version_numbers(VERSION))
            self._check_device(plan)
            machine.engines += 1
            return ICudaEngine._make(self, plan, len(content))
        except PlanRefused as refused:
            self._error(f"IRuntime::deserializeCudaEngine: {refused}")
        except CudaFailure as failure:
            self._error(f"IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime ({failure.code.text})")
        except Exception as error:  # noqa: BLE001 -- ONNX Runtime's exceptions have no common type of their own
            self._error(f"IRuntime::deserializeCudaEngine: Error Code 4: Internal Error ({error})")
        return None

    def _check_device(self, plan: Plan) -> None:
        facts = machine.facts
        here = f"{facts.compute_capability[0]}.{facts.compute_capability[1]}"
        if plan.compute_capability != here:
            raise PlanRefused(
                "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, expecting "
                f"compute {here} got compute {plan.compute_capability}, please rebuild.)"
            )
        if (plan.device, plan.sm_count) != (facts.name, facts.sm_count):
            text = "Using an engine plan file across different models of devices is not supported and is likely to "
            tell(self._logger, Level.WARNING, text + "affect performance or even cause errors or deadlock.")
        if plan.dla_core is not None and max(self.DLA_core, 0) >= machine.dla_cores:
            raise PlanRefused(
                f"Error Code 3: API Usage Error (Cannot create DLA engine, {max(self.DLA_core, 0)} not available)"
            )

    def _error(self, text: str) -> None:
        tell(self._logger, Level.ERROR, text)


class ICudaEngine(Bound):
    """A loaded plan. It keeps its runtime alive, as its contexts keep it."""

    error_recorder: Any = None

    def __init__(self) -> None:
        raise TypeError("tensorrt.ICudaEngine: No constructor defined!")

    @classmethod
    def _make(cls, runtime: Runtime, plan: Plan, size: int) -> ICudaEngine:
        engine: ICudaEngine = object.__new__(cls)
        engine._runtime = runtime
        engine._logger = runtime.logger
        engine._plan = plan
        engine._model = Model(plan.onnx)
        engine._computation = Computation(plan.onnx)
        engine._fused = fuse(engine._model)
        engine._tensors = {each.name: each for each in [*engine._model.inputs, *engine._model.outputs]}
        engine._memory = machine.memory
        engine._weights = engine._memory.reserve(size)
        return engine

    _runtime: Runtime
    _logger: ILogger
    _plan: Plan
    _model: Model
    _computation: Computation
    _fused: list[Fused]
    _tensors: dict[str, Tensor]
    _weights: Region
    _memory: Any

    def __del__(self) -> None:
        if hasattr(self, "_weights") and not sys.is_finalizing():
            self._memory.free(self._weights)

    @property
    def name(self) -> str:
        return self._plan.name

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._fused)

    @property
    def num_optimization_profiles(self) -> int:
        return max(len(self._plan.profiles), 1)

    @property
    def num_aux_streams(self) -> int:
        return 0

    @property
    def refittable(self) -> bool:
        return False

    @property
    def profiling_verbosity(self) -> Any:
        return ProfilingVerbosity[self._plan.verbosity]

    @property
    def device_memory_size_v2(self) -> int:
        return max(self.get_device_memory_size_for_profile_v2(index) for index in range(self.num_optimization_profiles))

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return scratch_bytes(
            {each.name: self._extremes(each.name, profile_index)[2] for each in self._model.inputs}, self._tensors
        )

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        if name not in self._tensors:
            return TensorIOMode.NONE
        is_input = any(each.name == name for each in self._model.inputs)
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensor(name).shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensor(name).dtype]

    def get_tensor_location(self, name: str) -> Any:
        self._tensor(name)
        return TensorLocation.DEVICE

    def get_tensor_format(self, name: str, profile_index: int = 0) -> Any:
        self._tensor(name)
        return TensorFormat.LINEAR

    def get_tensor_format_desc(self, name: str, profile_index: int = 0) -> str:
        word = {"FLOAT": "FP32", "HALF": "FP16"}.get(self._tensor(name).dtype, self._tensor(name).dtype)
        return f"Row major linear {word} format (kLINEAR)"

    def get_tensor_bytes_per_component(self, name: str, profile_index: int = 0) -> int:
        return NUMPY[self._tensor(name).dtype].itemsize

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(sizes) for sizes in self._extremes(name, profile_index)]

    def is_shape_inference_io(self, name: str) -> bool:
        self._tensor(name)
        return False

    def create_execution_context(
        self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        """Return a context; None, and a line for the log, where there is no memory for it."""
        need = self.device_memory_size_v2
        try:
            machine.check()
            if machine.controls.context_fails:
                need = machine.facts.memory_bytes
                raise CudaFailure(Code.OUT_OF_MEMORY)
            user_managed = strategy == ExecutionContextAllocationStrategy.USER_MANAGED
            scratch = None if user_managed else machine.memory.reserve(need)
        except CudaFailure as failure:
            if failure.code is Code.OUT_OF_MEMORY:
                text = f"Error Code 2: OutOfMemory ({plans.no_memory(need)})"
            else:
                text = f"Error Code 1: Cuda Runtime ({failure.code.text})"
            tell(self._logger, Level.ERROR, f"IExecutionContext::create: {text}")
            return None
        return IExecutionContext._make(self, scratch)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector._make(self._fused, self._model, self._plan)

    def serialize(self) -> IHostMemory:
        return IHostMemory(plans.serialise(self._plan))

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            machine.misuse(f"the engine was asked for a tensor {name!r}; it has {', '.join(self._tensors)}")
        return self._tensors[name]

    def _extremes(self, name: str, profile_index: int) -> tuple[tuple[int, ...], ...]:
        """Return the smallest, the best and the largest shape of an input."""
        shape = self._tensor(name).shape
        if not self._plan.profiles or name not in self._plan.profiles[profile_index]:
            return (shape,) * 3
        return tuple(tuple(sizes) for sizes in self._plan.profiles[profile_index][name])
