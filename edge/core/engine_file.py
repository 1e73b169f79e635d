"""TensorRT engine file (a plan): its header, the metadata that Ultralytics puts in front, and its binding by SHA-256.

A plan is code: only a file that its owner added is ever given to TensorRT, and it is checked each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import ModelError

SUFFIXES = (".engine", ".plan", ".trt")
MAGIC = {"tensorrt": b"ftrt", "tensorrt-rtx": b"vtrt"}  # the first four bytes of a plan
LIBRARIES = {magic: library for library, magic in MAGIC.items()}
NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

HEADER_BYTES = 28  # with the four numbers of the version at its end
COMPARED_NUMBERS = 3  # of a version; the library does not tell the last one
_LENGTH_BYTES = 4  # of the metadata
_LONGEST_METADATA = 1 << 20
_OTHERS_MAY_WRITE = 0o022
# In the description of fused layers that a plan contains, if it has any.
_ARCHITECTURE = re.compile(rb"accelerators=\{sm(\d{2,3})")


@dataclass(frozen=True)
class EngineFile:
    """A plan that was read and checked."""

    path: Path
    plan: bytes  # without the metadata in front
    sha256: str  # of the whole file
    library: str  # tensorrt or tensorrt-rtx
    version: tuple[int, int, int, int]  # of the library that built it; the last number modulo 256
    metadata: Mapping[str, str]  # as in an ONNX file; empty without any

    @property
    def built_by(self) -> str:
        """The library that built it, with its version."""
        return f"{NAMES[self.library]} {'.'.join(map(str, self.version))}"

    @property
    def compute_capability(self) -> str | None:
        """The GPU that it was built for, such as 8.7; None where its layers do not say it."""
        found = _ARCHITECTURE.search(self.plan)
        return f"{found[1][:-1].decode()}.{found[1][-1:].decode()}" if found else None


def is_engine_file(path: Path) -> bool:
    """Return whether a path has the suffix of an engine file."""
    return path.suffix.lower() in SUFFIXES


def read_engine_file(path: Path, sha256: str | None = None) -> EngineFile:
    """Read an engine file; raise ModelError if it is none, or not the one that was added.

    `sha256` is the hash in model.toml: with it, the file must also be one that no one else may write.
    """
    content = _read(path, is_added=sha256 is not None)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ModelError(
            f"{path} has the SHA-256 {found[:12]}…, wanted {sha256[:12]}… as model.toml says; an engine file is code, "
            "and only the one that was added is loaded: add the new one with `edge engines add`"
        )
    metadata, plan = _split(content)
    if len(plan) < HEADER_BYTES or plan[:4] not in LIBRARIES:
        raise ModelError(
            f"{path} is no TensorRT engine file (it begins with {plan[:4]!r}); wanted one that trtexec, TAO or "
            "Ultralytics made"
        )
    return EngineFile(path, plan, found, LIBRARIES[plan[:4]], header_version(plan), metadata)


def header_version(plan: bytes) -> tuple[int, int, int, int]:
    """Return the version in a plan's header: major, minor, patch, build, each modulo 256."""
    major, minor, patch, build = plan[HEADER_BYTES - 4 : HEADER_BYTES]
    return major, minor, patch, build


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a library's version that a plan's header must have, as it has them: without the build."""
    return tuple(int(number) % 256 for number in re.findall(r"\d+", version)[:COMPARED_NUMBERS])


def engine_metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata in front of a plan, without reading the plan; empty without any."""
    try:
        with path.open("rb") as file:
            return _split(file.read(_LENGTH_BYTES + _LONGEST_METADATA))[0]
    except OSError:  # whoever opens the engine says what is wrong with it
        return {}


def _read(path: Path, *, is_added: bool) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NOFOLLOW if is_added else 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            is_ours = status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS_MAY_WRITE
            if is_added and not (stat.S_ISREG(status.st_mode) and is_ours):
                raise ModelError(
                    f"{path} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}, wanted a file "
                    f"of root or of user {os.geteuid()} that no one else may write: an engine file is code"
                )
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"{path} cannot be read ({reason}); wanted a TensorRT engine file") from None


def _split(content: bytes) -> tuple[Mapping[str, str], bytes]:
    """Return Ultralytics' metadata, which come first with their length, and the plan behind them."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if content[:4] in LIBRARIES or not 0 < length <= _LONGEST_METADATA:
        return {}, content
    try:
        metadata = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except ValueError:
        return {}, content
    if not isinstance(metadata, dict):
        return {}, content
    texts = {key: value if isinstance(value, str) else str(value) for key, value in metadata.items()}
    return texts, content[_LENGTH_BYTES + length :]
