"""A GPU that is none: TensorRT, pycuda and cuda-bindings over host memory, computing with ONNX Runtime; for tests only.

The packages beside this one (`tensorrt`, `pycuda`, `cuda`) give it the names of the real modules. It refuses what the
real ones refuse, with their words, and where they would corrupt memory or hang, it raises `Misuse` and notes it in
`misuses`. Work that is queued runs when somebody waits for it, and not before.

A test sets `controls`; a child process gets them as JSON in the environment variable EDGE_EMULATION.
"""

from emulation.controls import Controls
from emulation.errors import Misuse
from emulation.machine import Kernel, machine

controls: Controls = machine.controls
kernels: dict[str, Kernel] = machine.kernels
misuses: list[str] = machine.misuses


def reset() -> None:
    """Forget everything: faults, memory, streams and misuses; the controls are again what the environment says."""
    machine.reset()


__all__ = ["Controls", "Kernel", "Misuse", "controls", "kernels", "machine", "misuses", "reset"]
