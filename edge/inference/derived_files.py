"""Files derived from a model: their places, and the hash of the source that they are derived from."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

from edge.core.errors import ModelError
from edge.core.files import permissions, write_atomic

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_NAME_DIGITS = 12
# An entry {"location": NAME} of protobuf's, as a tensor has it whose numbers lie in a file of their own.
_LOCATION = b"\x0a\x08location\x12"
_EXTERNAL = re.compile(re.escape(_LOCATION) + rb"([\x01-\x7f]|[\x80-\xff][\x01-\x7f])")


def derived_paths(onnx: Path, state_dir: Path, suffix: str, *, beside: str | None = None) -> tuple[Path, Path]:
    """Return the two places of a derived file: beside the model, and in the state where that folder is read-only.

    They are NAME.SUFFIX, or `beside` where given, and NAME-DIGITS.SUFFIX.
    """
    in_state = derived_folder(onnx, state_dir)
    return onnx.with_name(beside or f"{onnx.stem}.{suffix}"), in_state.with_name(f"{in_state.name}.{suffix}")


def derived_folder(onnx: Path, state_dir: Path) -> Path:
    """Return the folder in the state for several files derived from the model at this place."""
    digits = hashlib.sha256(os.fsencode(onnx.resolve())).hexdigest()[:_NAME_DIGITS]
    return state_dir / "models" / f"{onnx.stem}-{digits}"


def keep_derived(data: bytes, onnx: Path, state_dir: Path, kind: str, origin_key: str) -> Path:
    """Write a file made from a model, where that is possible, and return its place.

    `origin_key` is in the metadata of such files.
    """
    beside, in_state = derived_paths(onnx, state_dir, f"{kind}.onnx")
    # A file of this name that we did not make is its owner's.
    if not beside.exists() or _holds(beside, origin_key):
        try:
            write_atomic(beside, data, durable=True, mode=permissions(onnx))
        except OSError as error:
            log.debug("%s cannot be written (%s)", beside, error)
        else:
            return beside
    try:
        in_state.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(in_state, data, durable=True, mode=permissions(onnx))
    except OSError as error:
        raise ModelError(
            f"the {kind.upper()} form of model {onnx} can be written neither beside it nor to {in_state} "
            f"({error.strerror}); see the folders' rights and the space left"
        ) from None
    return in_state


def _holds(path: Path, origin_key: str) -> bool:
    try:
        return f"{origin_key}\x12".encode() in path.read_bytes()
    except OSError:
        return False


def source_sha256(onnx: Path) -> str:
    """Return the hash of a model: of the ONNX file, and of the files beside it in which it keeps its numbers."""
    digest = hashlib.sha256()
    try:
        external = _external_files(onnx)
        for path in (onnx, *external):
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{error.filename or onnx} cannot be read ({error.strerror}); wanted a model's file") from None
    return digest.hexdigest()


def _external_files(onnx: Path) -> list[Path]:
    """Find the files that tensors of this model lie in, without the package onnx, which may be absent where it runs."""
    data = onnx.read_bytes()
    if _LOCATION not in data:  # found out much faster than by the pattern
        return []
    names = set()
    for found in _EXTERNAL.finditer(data):
        low, high = (*found[1], 0)[:2]
        length = (low & 0x7F) | (high << 7)
        names.add(data[found.end() : found.end() + length])
    files = (onnx.parent / os.fsdecode(name) for name in sorted(names) if name and b"\0" not in name)
    return [path for path in files if path.is_file()]
