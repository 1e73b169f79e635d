"""CUDA contexts as pycuda keeps them: one stack a thread, and objects that belong to the context they were made in."""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from emulation.errors import Code, CudaFailure, Misuse
from emulation.machine import machine

P = ParamSpec("P")
R = TypeVar("R")


class Error(Exception):
    """pycuda's exceptions; this is the base of the others."""


class MemoryError(Error):  # noqa: A001 -- pycuda's name
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):  # noqa: A001 -- pycuda's name
    pass


# As pycuda maps the driver's codes; what is not named is a LogicError.
_TYPES: dict[Code, type[Error]] = {
    Code.OUT_OF_MEMORY: MemoryError,
    Code.LAUNCH_OUT_OF_RESOURCES: LaunchError,
    Code.NO_DEVICE: RuntimeError,
    Code.NO_BINARY_FOR_GPU: RuntimeError,
    Code.FILE_NOT_FOUND: RuntimeError,
    Code.NOT_READY: RuntimeError,
}


def pycuda_error(routine: str, code: Code, detail: str = "") -> Error:
    """Return what pycuda raises when a routine of the driver answers with a code."""
    text = f"{routine} failed: {code.text}"
    return _TYPES.get(code, LogicError)(f"{text} - {detail}" if detail else text)


def routine(name: str, *, needs_context: bool = True) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function behave as pycuda's wrapper of the driver's routine `name`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*arguments: P.args, **keywords: P.kwargs) -> R:
            try:
                machine.check()
                if not machine.is_initialised:
                    raise CudaFailure(Code.NOT_INITIALIZED)
                if needs_context and stack.current() is None:
                    raise CudaFailure(Code.INVALID_CONTEXT)
                return function(*arguments, **keywords)
            except CudaFailure as failure:
                raise pycuda_error(name, failure.code, failure.detail) from None

        return call

    return decorate


class _Contexts:
    """The contexts of one thread; a thread that ends with one pushed takes the real process down."""

    def __init__(self) -> None:
        self.pushed: list[Context] = []

    def __del__(self) -> None:
        if self.pushed and not sys.is_finalizing():
            machine.note_misuse("a thread ended with a CUDA context pushed: the real pycuda aborts the process")


class _Stack(threading.local):
    def __init__(self) -> None:
        self._contexts = _Contexts()

    @property
    def pushed(self) -> list[Context]:
        return self._contexts.pushed

    def current(self) -> Context | None:
        while self.pushed and not self.pushed[-1].is_valid:
            self.pushed.pop()
        return self.pushed[-1] if self.pushed else None


stack = _Stack()


@atexit.register
def _end() -> None:
    if stack.pushed:
        machine.note_misuse("the process ended with a CUDA context pushed: the real pycuda aborts it")


class Context:
    """A CUDA context; the device's primary one here."""

    def __init__(self) -> None:
        raise TypeError("This class cannot be instantiated from Python")

    @classmethod
    def _retain(cls) -> Context:
        context = object.__new__(cls)
        context.is_valid = True
        context.thread = threading.get_ident()
        return context

    is_valid: bool
    thread: int

    @property
    def handle(self) -> int:
        return 0x7F00DEAD0000

    def push(self) -> None:
        routine("cuCtxPushCurrent", needs_context=False)(lambda: None)()
        stack.pushed.append(self)

    @staticmethod
    def pop() -> None:
        if not stack.pushed:
            raise pycuda_error("context::pop", Code.INVALID_CONTEXT, "cannot pop non-current context")
        stack.pushed.pop()

    def detach(self) -> None:
        if not self.is_valid:
            raise pycuda_error("context::detach", Code.INVALID_CONTEXT, "cannot detach from invalid context")
        self.is_valid = False

    @staticmethod
    @routine("cuCtxSynchronize")
    def synchronize() -> None:
        machine.drain()

    @staticmethod
    @routine("cuCtxGetDevice")
    def get_device() -> Any:
        from emulation.driver import Device  # noqa: PLC0415 -- it knows this module

        return Device(0)

    @staticmethod
    def get_current() -> Context | None:
        return stack.current()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context)

    def __hash__(self) -> int:
        return hash(self.handle)


class Dependent:
    """Something that was made in a context and is given back in it."""

    def __init__(self) -> None:
        context = stack.current()
        if context is None:
            raise pycuda_error("explicit_context_dependent", Code.INVALID_CONTEXT, "no currently active context?")
        self._ward: Context | None = context

    def _give_back(self, what: str, release: Callable[[], None]) -> None:
        """Release it as pycuda does: what happens in a foreign thread without the context, or fails, is not raised."""
        ward, self._ward = self._ward, None
        if ward is None or not ward.is_valid:
            return
        if stack.current() is not ward and threading.get_ident() != ward.thread:
            told = f"{what} in out-of-thread context could not be cleaned up"
            machine.note_misuse(f"{told}: it is leaked, as the context was not pushed on this thread")
            warnings.warn(told, UserWarning, stacklevel=3)
            return
        try:
            machine.check()
            release()
        except (CudaFailure, Misuse) as failure:
            sys.stderr.write(f"PyCUDA WARNING: a clean-up operation failed (dead context maybe?)\n{failure}\n")
