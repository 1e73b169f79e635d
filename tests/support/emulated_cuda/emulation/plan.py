"""The emulation's plans: a header like a real plan's, a description, and the ONNX file."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

# Magic, serialisation version 0, a word that is 2, one that is 0, the size of the whole, and the library's version: as
# plans of TensorRT-RTX 1.7 begin, but for their magic b"vtrt" (trtexec reads the same places in TensorRT's own).
_HEADER = struct.Struct("<4sIIIQ4B")
MAGIC = b"ftrt"


@dataclass
class Plan:
    version: tuple[int, int, int, int]
    onnx: bytes
    device: str
    compute_capability: str
    sm_count: int
    profiles: list[dict[str, list[list[int]]]]
    by_data: dict[str, list[int]]
    verbosity: str
    dla_core: int | None
    name: str
    dla_layers: list[str] = field(default_factory=list)


class PlanRefused(Exception):  # noqa: N818 -- the text of a refusal
    """A plan cannot be read; the text is what the library logs."""


def serialise(plan: Plan) -> bytes:
    """Return the bytes of a plan."""
    description = asdict(plan)
    del description["onnx"]
    text = json.dumps(description).encode()
    body = struct.pack("<I", len(text)) + text + plan.onnx
    version = [number % 256 for number in plan.version]
    return _HEADER.pack(MAGIC, 0, 2, 0, _HEADER.size + len(body), *version) + body


def parse(content: bytes, expected: tuple[int, int, int, int]) -> Plan:
    """Read a plan as a library of the `expected` version does."""
    if not content:
        raise PlanRefused("Error Code 3: API Usage Error (Cannot deserialize with an empty memory buffer. )")
    if len(content) < _HEADER.size:
        raise PlanRefused("Error Code 2: Internal Error (Assertion bufferSize >= minBufferSize failed. )")
    magic, _, _, _, size, *version = _HEADER.unpack_from(content)
    if magic != MAGIC:
        raise PlanRefused(
            "Error Code 1: Serialization (Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.Trying "
            "to load an engine created with incompatible serialization version "
            f"({int.from_bytes(magic, 'little')} != {int.from_bytes(MAGIC, 'little')}). Check that the engine was not "
            "created using safety runtime, same OS was used and version compatibility parameters were set accordingly "
            "and that it is a TRT engine file. )"
        )
    if tuple(version) != tuple(number % 256 for number in expected):
        raise PlanRefused(
            "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of TensorRT, "
            f"expecting library version {_dotted(expected)} got {_dotted(version)}, please rebuild.)"
        )
    if size != len(content):
        raise PlanRefused("Error Code 2: Internal Error (Assertion plan.header.size == blobSize failed. )")
    return _read(content[_HEADER.size :])


def _read(body: bytes) -> Plan:
    (length,) = struct.unpack_from("<I", body)
    try:
        description: dict[str, Any] = json.loads(body[4 : 4 + length])
        description["version"] = tuple(description["version"])
        return Plan(onnx=body[4 + length :], **description)
    except (ValueError, KeyError, TypeError) as error:
        raise PlanRefused(
            f"Error Code 4: Internal Error (Unexpected content of the engine plan file: {error})"
        ) from None


def no_memory(size: int) -> str:
    """Return the library's words for want of memory."""
    return (
        f"Requested amount of GPU memory ({size} bytes) could not be allocated. There may not be enough free memory "
        "for allocation to succeed."
    )


def _dotted(version: Any) -> str:
    return ".".join(str(number) for number in version)


def version_numbers(text: str) -> tuple[int, int, int, int]:
    """Return the four numbers of a version; the last is 0 where it is not given."""
    major, minor, patch, build = (*(int(part) for part in text.split(".")), 0, 0)[:4]
    return major, minor, patch, build
