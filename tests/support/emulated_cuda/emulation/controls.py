"""What a test sets: the device, the versions, and the faults to come."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field

VARIABLE = "EDGE_EMULATION"


@dataclass
class Controls:
    """Counts are of one process and begin at 1; an enqueue is an execution or the launch of a graph."""

    device: str = "orin-nano"  # a name of devices.DEVICES
    tensorrt_version: str = "10.3.0.30"  # read when `tensorrt` is imported
    memory_bytes: int | None = None  # None: the device's
    host_memory_limit_bytes: int | None = None  # of pagelocked memory
    dla_cores: int | None = None  # None: the device's
    letterbox_library: str = ""  # the preprocess kernel, compiled for this machine
    # Faults while running
    fail_enqueue: int | None = None  # this enqueue is refused; the next works
    fail_until_engine: int = 0  # or all from it on, until so many engines have been loaded
    sticky_from_enqueue: int | None = None  # this enqueue is refused, and every call from then on fails
    lost_from_enqueue: int | None = None  # from this enqueue on there is no device any more
    gpu_lost: bool = False  # there is no device
    deserialize_fails: bool = False  # as if the library refused every plan
    context_fails: bool = False  # no execution context can be made, for want of memory
    # Wrong and odd engines
    output_factor: float = 1.0  # floating-point outputs are multiplied by it
    output_nan: bool = False
    zero_cost: bool = False  # executions do nothing
    run_seconds: float = 0.0  # an execution takes that much longer
    # Faults while building
    unsupported_ops: list[str] = field(default_factory=list)
    builder: str = ""  # "abort": the process crashes; "kill": it is killed; "fail": the build fails
    build_error: str = "Error Code 10: Internal Error (Could not find any implementation for node emulated.)"
    build_seconds: float = 0.0
    build_memory_bytes: int | None = None  # a workspace above it ends in want of memory
    # Where misuses are noted, one a line, for tests that look from outside
    misuse_file: str = ""

    @classmethod
    def from_environment(cls) -> Controls:
        return cls(**json.loads(os.environ.get(VARIABLE) or "{}"))

    def assign(self, other: Controls) -> None:
        """Take over all values of another, staying the same object."""
        for each in dataclasses.fields(self):
            setattr(self, each.name, getattr(other, each.name))

    def as_environment(self) -> dict[str, str]:
        """Return the environment that gives a child process these controls."""
        return {VARIABLE: json.dumps(dataclasses.asdict(self))}
