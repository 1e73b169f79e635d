"""The one emulated computer: device, memory, streams, faults, and what was done wrong on it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from emulation.controls import Controls
from emulation.devices import DEVICES, DeviceFacts
from emulation.errors import Code, CudaFailure, Misuse
from emulation.memory import Memory
from emulation.streams import Capture, Operation, Stream

Kernel = Callable[..., None]  # (grid, block, *arguments)


class Machine:
    """All state of the emulation."""

    def __init__(self) -> None:
        self.controls = Controls.from_environment()
        self.kernels: dict[str, Kernel] = {}
        self.misuses: list[str] = []
        self._lock = threading.RLock()
        self._start()

    def reset(self) -> None:
        self.controls.assign(Controls.from_environment())
        self.kernels.clear()
        self.misuses.clear()
        self._start()

    def _start(self) -> None:
        self.is_initialised = False
        self.failure: Code | None = None  # of a kernel: it never goes away
        self.enqueues = 0
        self.engines = 0
        self.streams: dict[int, Stream] = {}
        self._memory: Memory | None = None

    @property
    def facts(self) -> DeviceFacts:
        return DEVICES[self.controls.device]

    @property
    def dla_cores(self) -> int:
        return self.facts.dla_cores if self.controls.dla_cores is None else self.controls.dla_cores

    @property
    def memory(self) -> Memory:
        """The memory, made when it is first asked for, so that a test can set its size before."""
        with self._lock:
            if self._memory is None:
                limit = self.controls.memory_bytes or self.facts.memory_bytes
                self._memory = Memory(limit, self.controls.host_memory_limit_bytes, self.facts.integrated)
            return self._memory

    def misuse(self, what: str) -> NoReturn:
        """Note what must never be done, and end the call that did it."""
        self.note_misuse(what)
        raise Misuse(what)

    def note_misuse(self, what: str) -> None:
        self.misuses.append(what)
        sys.stderr.write(f"EMULATION: {what}\n")
        if self.controls.misuse_file:
            with Path(self.controls.misuse_file).open("a", encoding="utf-8") as file:
                file.write(what + "\n")

    def check(self) -> None:
        """Fail as every call does once the device is gone or a kernel has failed."""
        if self.controls.gpu_lost:
            raise CudaFailure(Code.NO_DEVICE)
        if self.failure is not None:
            raise CudaFailure(self.failure)

    def fail(self, code: Code) -> None:
        """Let a kernel fail: the error stays for ever."""
        self.failure = self.failure or code

    def add_stream(self) -> Stream:
        stream = Stream(self.fail, lambda: self.controls.gpu_lost or self.failure is not None)
        with self._lock:
            self.streams[stream.handle] = stream
        return stream

    def stream(self, handle: int) -> Stream:
        """Return the stream of a handle."""
        if handle == 0:
            self.misuse("work was queued on stream 0, which orders it with all other streams")
        stream = self.streams.get(int(handle))
        if stream is None:
            self.misuse(f"{handle:#x} is no stream")
        return stream

    def drop_stream(self, stream: Stream) -> None:
        stream.drain()
        stream.destroyed = True
        with self._lock:
            self.streams.pop(stream.handle, None)

    def drain(self) -> None:
        """Wait for all streams."""
        self.refuse_while_capturing()
        for stream in list(self.streams.values()):
            stream.drain()
        self.check()

    def begin_capture(self, stream: Stream, *, thread_local: bool) -> None:
        if stream.capture is not None:
            raise CudaFailure(Code.INVALID_VALUE)
        stream.capture = Capture(thread_local, threading.get_ident())

    def refuse_while_capturing(self) -> None:
        """Refuse a call that may not come while a capture runs that concerns this thread, and spoil that capture."""
        for stream in list(self.streams.values()):
            capture = stream.capture
            if capture is not None and (not capture.thread_local or capture.thread == threading.get_ident()):
                capture.valid = False
                raise CudaFailure(Code.CAPTURE_UNSUPPORTED)

    def count_enqueue(self) -> None:
        """Count an enqueue, and let the faults come that were asked for."""
        with self._lock:
            self.enqueues += 1
            count, controls = self.enqueues, self.controls
        self.check()
        if controls.lost_from_enqueue is not None and count >= controls.lost_from_enqueue:
            controls.gpu_lost = True
            raise CudaFailure(Code.NO_DEVICE)
        if controls.sticky_from_enqueue is not None and count >= controls.sticky_from_enqueue:
            self.fail(Code.ILLEGAL_ADDRESS)
            raise CudaFailure(Code.ILLEGAL_ADDRESS)
        first = controls.fail_enqueue
        if first is not None and (count == first or (count > first and self.engines < controls.fail_until_engine)):
            raise CudaFailure(Code.LAUNCH_OUT_OF_RESOURCES)

    def check_alone(self, stream: Stream, operation: Operation) -> None:
        """Refuse work that uses what unfinished work of another stream uses, unless it waits for that."""
        for other in list(self.streams.values()):
            if other is stream or not operation.holds:
                continue
            for place, pending in other.pending():
                shared: list[Any] = [each for each in operation.holds if each in pending.holds]
                if shared and stream.seen.get(other, 0) < place:
                    self.misuse(f"{operation.what} and {pending.what} of another stream use {shared[0]} at once")


machine = Machine()
