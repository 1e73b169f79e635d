"""How TensorRT is to build: profiles, memory, flags, the timing cache."""
# ruff: noqa: FBT001, N802 -- names and parameters are the real library's

from __future__ import annotations

import json
from typing import Any

from emulation.bound import Bound, Dims, IHostMemory, ILogger, IProgressMonitor, Level, require_made, tell
from emulation.definition import ILayer
from emulation.enums import (
    VERSION,
    BuilderFlag,
    DeviceType,
    EngineCapability,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    ProfilingVerbosity,
)
from emulation.machine import machine

_ON_DLA = {"Conv", "Relu", "Sigmoid", "Tanh", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Mul", "Concat"}
_DLA_MIN_SRAM = 4096
USAGE = "Error Code 4: API Usage Error"


class IOptimizationProfile(Bound):
    """The smallest, the best and the largest shape of each input."""

    extra_memory_target = 1.0

    def __init__(self) -> None:
        raise TypeError("tensorrt.IOptimizationProfile: No constructor defined!")

    @classmethod
    def _make(cls) -> IOptimizationProfile:
        profile: IOptimizationProfile = object.__new__(cls)
        profile._shapes = {}
        return profile

    _shapes: dict[str, list[list[int]]]

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 -- TensorRT's names
        self._shapes[input] = [[int(size) for size in sizes] for sizes in (min, opt, max)]

    def get_shape(self, input: str) -> list[Dims]:  # noqa: A002 -- TensorRT's name
        return [Dims(sizes) for sizes in self._shapes.get(input, [])]

    def _invalid(self) -> str:
        """Return the inputs whose sizes are not in order."""
        return ", ".join(
            name
            for name, shapes in self._shapes.items()
            if any(not 0 <= low <= best <= high for low, best, high in zip(*shapes, strict=True))
        )


class ITimingCache(Bound):
    """Times of tactics; here, only where they were taken."""

    def __init__(self) -> None:
        raise TypeError("tensorrt.ITimingCache: No constructor defined!")

    @classmethod
    def _make(cls, place: dict[str, Any], times: int) -> ITimingCache:
        cache: ITimingCache = object.__new__(cls)
        cache._place, cache._times = place, times
        return cache

    _place: dict[str, Any]
    _times: int

    def serialize(self) -> IHostMemory:
        return IHostMemory(b"ptrt" + json.dumps({"place": self._place, "times": self._times}).encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        return ignore_mismatch or input_cache._place == self._place

    def reset(self) -> bool:
        self._times = 0
        return True


def _here() -> dict[str, Any]:
    facts = machine.facts
    return {"version": VERSION, "device": facts.name, "capability": list(facts.compute_capability)}


class IBuilderConfig(Bound):
    """How to build."""

    builder_optimization_level = 3
    avg_timing_iterations = 1
    max_aux_streams = -1
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    engine_capability = EngineCapability.STANDARD
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE
    default_device_type = DeviceType.GPU
    DLA_core = -1
    profile_stream = 0
    flags = 0

    def __init__(self) -> None:
        raise TypeError("tensorrt.IBuilderConfig: No constructor defined!")

    @classmethod
    def _make(cls, logger: ILogger) -> IBuilderConfig:
        config: IBuilderConfig = object.__new__(cls)
        config._logger = logger
        config._monitor = None
        config._profiles = []
        config._cache = None
        config._pools = {
            MemoryPoolType.WORKSPACE: machine.facts.memory_bytes,
            MemoryPoolType.TACTIC_DRAM: machine.facts.memory_bytes * 3 // 4,
            MemoryPoolType.DLA_MANAGED_SRAM: 1 << 20,
            MemoryPoolType.DLA_LOCAL_DRAM: 1 << 30,
            MemoryPoolType.DLA_GLOBAL_DRAM: 1 << 29,
        }
        config.flags = 1 << int(BuilderFlag.TF32)
        return config

    _logger: ILogger
    _monitor: IProgressMonitor | None
    _profiles: list[IOptimizationProfile]
    _cache: ITimingCache | None
    _pools: dict[Any, int]

    @property
    def progress_monitor(self) -> IProgressMonitor | None:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: IProgressMonitor) -> None:
        require_made(monitor, IProgressMonitor)
        self._monitor = monitor

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_flag(self, flag: Any) -> None:
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self.flags >> int(flag) & 1)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if pool == MemoryPoolType.DLA_MANAGED_SRAM and (pool_size < _DLA_MIN_SRAM or pool_size & (pool_size - 1)):
            tell(self._logger, Level.ERROR, f"IBuilderConfig::setMemoryPoolLimit: {USAGE} (not a power of two)")
            return
        self._pools[pool] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 0)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if names := profile._invalid():
            text = "please ensure that the optimization profiles satisfy MIN<=OPT<=MAX."
            text = f"Invalid optimization profiles for input tensors {names}, {text}"
            tell(self._logger, Level.ERROR, f"IOptimizationProfile::isValid: {USAGE} ({text})")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache:
        """Return a cache; what cannot be read gives an empty one, as with the real library."""
        content = bytes(memoryview(serialized_timing_cache))
        try:
            read = json.loads(content[4:]) if content[:4] == b"ptrt" else {}
        except ValueError:
            read = {}
        if content and not read:
            text = "Failed to deserialize timing cache. Returning an empty timing cache."
            tell(self._logger, Level.WARNING, text)
        return ITimingCache._make(read.get("place", _here()), read.get("times", 0))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and cache._place != _here():
            tell(self._logger, Level.ERROR, "The timing cache was made on another device or by another version.")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache

    def can_run_on_DLA(self, layer: ILayer) -> bool:
        types = {each.dtype for each in layer._outputs}
        takes = {"HALF", "INT8"}
        if hasattr(BuilderFlag, "FP16") and self.get_flag(BuilderFlag.FP16):
            takes.add("FLOAT")
        return machine.dla_cores > 0 and layer._node.op in _ON_DLA and types <= takes

    def set_device_type(self, layer: ILayer, device_type: Any) -> None:
        raise NotImplementedError("the emulation places layers by itself")
