"""What TensorRT's objects share: attributes cannot be invented, and subclasses must call the base's `__init__`."""
# ruff: noqa: ARG002 -- names and parameters are the real library's

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from typing import Any

from emulation.machine import machine


class Bound:
    """An object of the library: as with pybind11's classes, only what the class has can be set."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)


class Interface:
    """Something that a program implements."""

    _is_made = False

    def __init__(self) -> None:
        self._is_made = True


def require_made(implementation: Any, kind: type[Interface]) -> None:
    """Refuse what pybind11 refuses: an object whose class forgot the base's `__init__`."""
    if not isinstance(implementation, kind):
        raise TypeError(f"incompatible function arguments: wanted {kind.__name__}, got {type(implementation).__name__}")
    if not implementation._is_made:
        raise TypeError(f"{type(implementation).__name__}.__init__() must be called when overriding __init__")


class Level(enum.IntEnum):
    """How bad a line of the log is; TensorRT calls it ILogger.Severity."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger(Interface):
    Severity = Level
    INTERNAL_ERROR = Level.INTERNAL_ERROR
    ERROR = Level.ERROR
    WARNING = Level.WARNING
    INFO = Level.INFO
    VERBOSE = Level.VERBOSE

    def log(self, severity: Level, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """The library's own: prints to standard error."""

    def __init__(self, min_severity: Level = Level.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: Level, msg: str) -> None:
        if severity <= self.min_severity:
            print(f"[TRT] [{severity.name[0]}] {msg}", flush=True)  # noqa: T201 -- as the library does


class IProgressMonitor(Interface):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


class IProfiler(Interface):
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProfiler::report_layer_time"')


class IOutputAllocator(Interface):
    """Has no methods of its own: a program gives it reallocate_output, reallocate_output_async, notify_shape."""


class Dims:
    """The sizes of a tensor; -1 is open."""

    MAX_DIMS = 8

    def __init__(self, sizes: Any = ()) -> None:
        self._sizes = tuple(int(size) for size in sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Dims, tuple, list)) and self._sizes == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as the real one

    def __repr__(self) -> str:
        return repr(self._sizes)


class IHostMemory(bytes):
    """Memory of the library: it can be read as a buffer, and nothing else."""

    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)

    @property
    def dtype(self) -> Any:
        from emulation.enums import DataType  # noqa: PLC0415 -- made for one version, this module for all

        return DataType.INT8

    def __len__(self) -> int:
        raise TypeError("object of type 'IHostMemory' has no len()")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("'IHostMemory' object is not subscriptable")

    def __iter__(self) -> Any:
        raise TypeError("'IHostMemory' object is not iterable")

    def __bool__(self) -> bool:
        return True

    def __bytes__(self) -> bytes:
        return memoryview(self).tobytes()


def tell(logger: ILogger, severity: Level, text: str) -> None:
    """Give a line to a program's logger."""
    logger.log(severity, text)


class Alone:
    """Lets one thread in; a second one is a misuse, not a wait."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            machine.misuse(f"{self._what} was used by two threads at once")

    def __exit__(self, *error: object) -> None:
        self._lock.release()
