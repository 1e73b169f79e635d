"""TensorRT's builder: a network and a configuration become a plan that the runtime half can load."""
# ruff: noqa: ARG002, N802, N815 -- names and parameters are the real library's

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emulation import plan as plans
from emulation.bound import Bound, IHostMemory, ILogger, IProgressMonitor, Level, require_made, tell
from emulation.config import USAGE, IBuilderConfig, IOptimizationProfile
from emulation.definition import ILayer, INetworkDefinition
from emulation.enums import VERSION, BuilderFlag, DeviceType, MemoryPoolType
from emulation.errors import CudaFailure
from emulation.machine import machine
from emulation.network import Computation, Model, Tensor, decided_by_data
from emulation.plan import Plan

_WEAK_TYPES = ("FP16", "BF16", "INT8", "FP8", "INT4")


@dataclass(frozen=True)
class _Refused(Exception):  # noqa: N818 -- the text of a refusal
    """A build ends; the text is what the library logs, none where it says nothing."""

    text: str


class Builder(Bound):
    """Makes networks, configurations and plans."""

    error_recorder: Any = None
    max_threads = 1
    max_DLA_batch_size = 4096

    def __init__(self, logger: ILogger) -> None:
        require_made(logger, ILogger)
        self._logger = logger
        try:
            machine.check()
        except CudaFailure as failure:
            text = f"CUDA initialization failure with error: {failure.code.number}"
            tell(logger, Level.ERROR, text)
            raise TypeError("pybind11::init(): factory function returned nullptr") from None

    @property
    def logger(self) -> ILogger:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:
        return machine.dla_cores

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition._make(self, int(flags))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig._make(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile._make()

    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        return network._model is not None

    def reset(self) -> None:
        """There is nothing to forget."""

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        """Return a plan; None where it failed, was cancelled, or was not allowed."""
        try:
            machine.check()
            model = _checked_model(network, config)
            on_dla = self._place(network, config, model)
            _go_through(config, model)
            _fail_as_asked(config)
            return IHostMemory(plans.serialise(_make_plan(network, config, model, on_dla)))
        except _Refused as refused:
            if refused.text:
                tell(self._logger, Level.ERROR, f"IBuilder::buildSerializedNetwork: {refused.text}")
        except CudaFailure as failure:
            text = f"IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime ({failure.code.text})"
            tell(self._logger, Level.ERROR, text)
        return None

    def _place(self, network: INetworkDefinition, config: IBuilderConfig, model: Model) -> list[str]:
        """Return the layers that go to the DLA, telling those that do not."""
        if config.default_device_type != DeviceType.DLA:
            return []
        core = max(config.DLA_core, 0)
        if core >= machine.dla_cores:
            raise _Refused(f"Error Code 3: API Usage Error (Cannot create DLA engine, {core} not available)")
        if changing := [each.name for each in model.inputs if -1 in each.shape]:
            raise _Refused(f"{USAGE} (Dynamic dimensions are not supported on DLA: input {changing[0]}.)")
        on_dla = []
        for node in model.nodes:
            if config.can_run_on_DLA(ILayer._make(node, model)):
                on_dla.append(node.name)
                continue
            if not config.get_flag(BuilderFlag.GPU_FALLBACK):
                raise _Refused(
                    f"Error Code 9: Internal Error (Layer '{node.name}' ({node.layer_type}): Unsupported on DLA.)"
                )
            text = f"Layer '{node.name}' ({node.layer_type}): Unsupported on DLA."
            tell(self._logger, Level.WARNING, f"{text} Switching this layer's device type to GPU.")
        return on_dla


def _checked_model(network: INetworkDefinition, config: IBuilderConfig) -> Model:
    """Return the model of a network that can be built."""
    model = network._model
    if model is None or not model.outputs:
        raise _Refused(f"{USAGE} (Network must have at least one output. )")
    weak = [name for name in _WEAK_TYPES if hasattr(BuilderFlag, name) and config.get_flag(BuilderFlag[name])]
    if weak and network._is_strongly_typed:
        raise _Refused(f"{USAGE} (a strongly typed network does not go with the flag {weak[0]})")
    dynamic = [each for each in model.inputs if -1 in each.shape]
    if dynamic and not config._profiles:
        raise _Refused(f"{USAGE} (Network has dynamic or shape inputs, but no optimization profile has been defined. )")
    for index, profile in enumerate(config._profiles):
        for each in model.inputs:
            _check_profile(index, profile._shapes.get(each.name), each)
    return model


def _check_profile(index: int, shapes: Sequence[Sequence[int]] | None, tensor: Tensor) -> None:
    if shapes is None:
        if -1 in tensor.shape:
            raise _Refused(f"{USAGE} (Dynamic input tensor {tensor.name} is missing dimensions in profile {index}. )")
        return
    if any(len(sizes) != len(tensor.shape) for sizes in shapes):
        raise _Refused(f"{USAGE} (Dimension mismatch for tensor {tensor.name} and profile {index}. )")
    for axis, size in enumerate(tensor.shape):
        low, best, high = (sizes[axis] for sizes in shapes)
        if size >= 0 and {low, best, high} != {size}:
            raise _Refused(
                f"{USAGE} (Dimension mismatch for tensor {tensor.name} and profile {index}. At dimension axis {axis}, "
                f"profile has min={low}, opt={best}, max={high} but tensor has {size}. )"
            )


def _go_through(config: IBuilderConfig, model: Model) -> None:
    """Take the steps of a build, telling the monitor, crashing where that is asked."""
    controls = machine.controls
    phases = [("Cloning network graph", 1), ("Optimizing graph", 4), ("Selecting tactics", max(len(model.nodes), 4))]
    pause_s = controls.build_seconds / sum(steps for _, steps in phases)
    monitor = _Monitor(config.progress_monitor)
    monitor.start("Building engine", None, len(phases))
    for number, (phase, steps) in enumerate(phases):
        monitor.start(phase, "Building engine", steps)
        for step in range(steps):
            time.sleep(pause_s)
            monitor.step(phase, step)
        if controls.builder == "abort":
            sys.stderr.write("terminate called after throwing an instance of 'emulated crash'\n")
            os.abort()
        if controls.builder == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        monitor.finish(phase)
        monitor.step("Building engine", number)
    monitor.finish("Building engine")


class _Monitor:
    """Calls a program's monitor; an exception of it cancels, as does False."""

    def __init__(self, monitor: IProgressMonitor | None) -> None:
        self._monitor = monitor

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._call("phase_start", phase, parent, steps)

    def step(self, phase: str, step: int) -> None:
        if self._monitor is not None and not self._call("step_complete", phase, step):
            raise _Refused("")

    def finish(self, phase: str) -> None:
        self._call("phase_finish", phase)

    def _call(self, name: str, *arguments: Any) -> Any:
        if self._monitor is None:
            return None
        try:
            return getattr(self._monitor, name)(*arguments)
        except Exception as error:  # noqa: BLE001 -- the binding takes any
            sys.stderr.write(f"[ERROR] Exception caught in {name}(): {error}\n")
            return False


def _fail_as_asked(config: IBuilderConfig) -> None:
    controls = machine.controls
    workspace = config.get_memory_pool_limit(MemoryPoolType.WORKSPACE)
    if controls.build_memory_bytes is not None and workspace > controls.build_memory_bytes:
        raise _Refused(f"Error Code 2: OutOfMemory ({plans.no_memory(workspace)})")
    if controls.builder == "fail":
        raise _Refused(controls.build_error)


def _make_plan(network: INetworkDefinition, config: IBuilderConfig, model: Model, on_dla: list[str]) -> Plan:
    facts = machine.facts
    profiles = [profile._shapes for profile in config._profiles]
    shapes = {each.name: tuple(profiles[0][each.name][1]) if -1 in each.shape else each.shape for each in model.inputs}
    if config._cache is not None:
        config._cache._times += len(model.nodes)
    return Plan(
        version=plans.version_numbers(VERSION),
        onnx=model.content,
        device=facts.name,
        compute_capability=f"{facts.compute_capability[0]}.{facts.compute_capability[1]}",
        sm_count=facts.sm_count,
        profiles=profiles,
        by_data=decided_by_data(model, Computation(model.content), shapes),
        verbosity=config.profiling_verbosity.name,
        dla_core=max(config.DLA_core, 0) if config.default_device_type == DeviceType.DLA else None,
        name=network.name,
        dla_layers=on_dla,
    )
