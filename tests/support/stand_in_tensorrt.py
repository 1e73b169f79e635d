"""A stand-in for TensorRT's builder, for what the real one does only on a board or in trouble.

As `tensorrt.py` (or `tensorrt_rtx.py`) on the module path it is what a builder process imports; `test_build.py` also
uses it in its own process, and checks that it has no member that the real library lacks. What it does is chosen by the
environment variable STAND_IN.
"""

from __future__ import annotations

import enum
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

__version__ = "10.3.0"
PLAN = b"ftrt" + bytes(20) + bytes((10, 3, 0, 30)) + b"the plan"
MACHINE = b"this GPU"
HANG_S = 600.0

dla_cores = 2
configs: list[IBuilderConfig] = []  # in the order of their making


def behaviour() -> str:
    return os.environ.get("STAND_IN", "")


class BuilderFlag(enum.IntEnum):
    FP16 = 0
    GPU_FALLBACK = 3
    PREFER_PRECISION_CONSTRAINTS = 11


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0
    TACTIC_DRAM = 4


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 1


class DeviceType(enum.IntEnum):
    GPU = 0
    DLA = 1


class DataType(enum.IntEnum):
    FLOAT = 0


class Severity(enum.IntEnum):
    ERROR = 1


class ILogger:
    def log(self, severity: Any, text: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.shape = shape
        self.dtype = DataType.FLOAT


class ILayer:
    def __init__(self, name: str) -> None:
        self.name = name


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.file = ""
        self._input, self._output = ITensor("images", (-1, 3, 8, 8)), ITensor("scores", (-1, 10))
        self._layers = [ILayer("conv"), ILayer("resize"), ILayer("pool")]
        self.num_inputs, self.num_outputs, self.num_layers = 1, 1, len(self._layers)

    def get_input(self, index: int) -> ITensor:
        return [self._input][index]

    def get_output(self, index: int) -> ITensor:
        return [self._output][index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class OnnxParser:
    num_errors = 0

    def __init__(self, network: INetworkDefinition, _logger: ILogger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        self._network.file = os.path.basename(path)  # noqa: PTH119 -- a string, as the library takes it
        return True


class ITimingCache:
    """Its bytes: the machine, then what was measured there, one letter a build."""

    def __init__(self, data: bytes) -> None:
        self.data = data or MACHINE + b":"

    def serialize(self) -> bytes:
        return self.data


class IOptimizationProfile:
    def set_shape(self, name: str, least: Any, best: Any, largest: Any) -> None:
        pass


class IBuilderConfig:
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    builder_optimization_level = 3
    max_aux_streams = -1
    default_device_type = DeviceType.GPU
    DLA_core = -1
    progress_monitor: IProgressMonitor

    def __init__(self) -> None:
        self.limits: dict[MemoryPoolType, int] = {}
        self.flags: set[BuilderFlag] = set()
        self.timing_cache: ITimingCache | None = None
        self.network: INetworkDefinition | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.limits[pool] = size

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self.flags

    def can_run_on_DLA(self, layer: ILayer) -> bool:  # noqa: N802 -- the library's name
        return layer.name != "resize"

    def add_optimization_profile(self, _profile: IOptimizationProfile) -> int:
        return 0

    def create_timing_cache(self, data: bytes) -> ITimingCache | None:
        return ITimingCache(data) if not data or b":" in data else None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:  # noqa: FBT001 -- the library's
        if not cache.data.startswith(MACHINE) and not ignore_mismatch:
            return False
        self.timing_cache = cache
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        if behaviour() == "no driver":
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        self.num_DLA_cores = dla_cores

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        configs.append(IBuilderConfig())
        return configs[-1]

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        config.network = network
        config.progress_monitor.phase_start("Building", None, 2)
        if trouble := _TROUBLES.get(behaviour()):
            return trouble(self._logger, network, config)
        for step in range(2):
            if not config.progress_monitor.step_complete("Building", step):
                return None
        if config.timing_cache is not None:
            config.timing_cache.data += b"t"
        config.progress_monitor.phase_finish("Building")
        return PLAN


def _hang(*_: Any) -> None:
    time.sleep(HANG_S)


def _crash(*_: Any) -> None:
    sys.stderr.write("something odd happened\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def _be_killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _starve(logger: ILogger, _network: Any, config: IBuilderConfig) -> bytes | None:
    """Run out of memory with more than a small workspace."""
    if config.limits[MemoryPoolType.WORKSPACE] <= 100 * 10**6:
        return PLAN
    logger.log(Severity.ERROR, "Requested amount of GPU memory (9 bytes) could not be allocated.")
    return None


def _refuse_types(logger: ILogger, network: INetworkDefinition, _config: Any) -> bytes | None:
    if not network.flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
        return PLAN
    logger.log(Severity.ERROR, "Could not infer output types")
    return None


def _refuse(logger: ILogger, *_: Any) -> None:
    logger.log(Severity.ERROR, "Error Code 10: no implementation for node conv")


def _chatter(*_: Any) -> bytes:
    print("a library that prints")  # noqa: T201 -- that is what it is for
    os.write(1, b"\x00 and writes to the descriptor\n")
    return PLAN


_TROUBLES: dict[str, Callable[..., bytes | None]] = {
    "hang": _hang,
    "crash": _crash,
    "killed": _be_killed,
    "starve": _starve,
    "refuse types": _refuse_types,
    "refuse": _refuse,
    "chatter": _chatter,
}
