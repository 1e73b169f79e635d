"""The driver's error codes with their texts, and what the emulation raises."""

from __future__ import annotations

import enum


class Code(enum.Enum):
    """Error code and text, as cuda.h and cuGetErrorString have them."""

    SUCCESS = 0, "no error"
    INVALID_VALUE = 1, "invalid argument"
    OUT_OF_MEMORY = 2, "out of memory"
    NOT_INITIALIZED = 3, "initialization error"
    NO_DEVICE = 100, "no CUDA-capable device is detected"
    INVALID_DEVICE = 101, "invalid device ordinal"
    INVALID_IMAGE = 200, "device kernel image is invalid"
    INVALID_CONTEXT = 201, "invalid device context"
    NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device"
    FILE_NOT_FOUND = 301, "file not found"
    INVALID_HANDLE = 400, "invalid resource handle"
    NOT_FOUND = 500, "named symbol not found"
    NOT_READY = 600, "device not ready"
    ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered"
    LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch"
    ALREADY_REGISTERED = 712, "part or all of the requested memory range is already mapped"
    NOT_REGISTERED = 713, "pointer does not correspond to a registered memory region"
    CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing"
    CAPTURE_INVALIDATED = 901, "operation failed due to a previous error during capture"
    CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream"
    CAPTURED_EVENT = 907, "operation not permitted on an event last recorded in a capturing stream"

    @property
    def number(self) -> int:
        return self.value[0]

    @property
    def text(self) -> str:
        return self.value[1]


class CudaFailure(Exception):  # noqa: N818 -- it never leaves the emulation: each binding makes its own error of it
    """A call of the driver returned an error code."""

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(code.text)
        self.code = code
        self.detail = detail


class Misuse(AssertionError):  # noqa: N818 -- no error of the program under test is meant, but of its author
    """What the real libraries would answer with a crash, a hang or wrong numbers."""
