"""Errors, each one sentence: the thing, the value found, the value wanted, the next step."""

_MAX_TEXT = 300  # characters of another library's error


class EdgeError(Exception):
    """A failure that a user can understand and fix; the command exits with its `exit_code`."""

    exit_code = 1


class ConfigError(EdgeError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class ModelError(EdgeError):
    """A model's files are missing, unreadable, or do not fit their manifest."""

    exit_code = 2


class EngineError(EdgeError):
    """An engine could not be built or loaded, or failed while it ran."""


class ImplausibleOutputError(EdgeError):
    """A model's outputs for one picture cannot mean what its manifest says; the picture has no result."""


class GpuMemoryError(EngineError):
    """The GPU is out of memory; a smaller batch or fewer lanes may fit."""


class GpuLostError(EngineError):
    """The GPU or its context is lost to this process: only a new process can use it again."""

    exit_code = 3


class UnansweredError(EdgeError):
    """The broker closed the connection on CONNECT, or did not answer it."""


class SourceError(EdgeError):
    """A source could not be opened or read.

    `permanent`: retrying cannot help; the stream is failed, not reconnecting.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


def error_text(error: Exception) -> str:
    """Return another library's error as one line of bounded length."""
    return " ".join(str(error).split())[:_MAX_TEXT]
