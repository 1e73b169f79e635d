"""The FP16 form of a model's ONNX file, kept beside it and made anew when the model has changed.

TensorRT's networks are strongly typed: the precision stands in the ONNX file that it is given.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
import shutil
import tempfile
from pathlib import Path

from edge.errors import ModelError

log = logging.getLogger(__name__)

_ORIGIN_KEY = "edge.fp16_of"  # in the file's metadata: what it was made from
_RULES = 1  # counts up when the same source is converted differently, so that older files are made anew
_CHUNK_BYTES = 1 << 20
_NAME_DIGITS = 12
_MAX_TOLD = 300  # characters of a reason that a library gave
# An entry {"location": NAME} of protobuf's, as a tensor has it whose numbers lie in a file of their own.
_LOCATION = b"\x0a\x08location\x12"
_EXTERNAL = re.compile(re.escape(_LOCATION) + rb"([\x01-\x7f]|[\x80-\xff][\x01-\x7f])")


def fp16_file(onnx: Path, state_dir: Path) -> Path:
    """Return the model in FP16, its inputs and outputs as they are; a model that is FP16 already is returned itself.

    It is NAME.fp16.onnx beside the source, or in the state's `models/` where it cannot be written there.
    """
    origin = f"{_RULES}:{source_sha256(onnx)}"
    for path in derived_places(onnx, state_dir, "fp16"):
        if _origin_is(path, origin):
            return path
    converted = _converted(onnx, origin)
    return onnx if converted is None else keep_derived(converted, onnx, state_dir, "fp16", _ORIGIN_KEY)


def derived_places(onnx: Path, state_dir: Path, kind: str) -> tuple[Path, Path]:
    """Return where a file made from a model may be: beside it, and where nothing can be written there."""
    return onnx.with_name(f"{onnx.stem}.{kind}.onnx"), state_dir / "models" / f"{place_name(onnx)}.{kind}.onnx"


def place_name(onnx: Path) -> str:
    """Return a name for what belongs to the model at this place."""
    digits = hashlib.sha256(os.fsencode(onnx.resolve())).hexdigest()[:_NAME_DIGITS]
    return f"{onnx.stem}-{digits}"


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


def _origin_is(path: Path, origin: str) -> bool:
    """Tell whether a file was made from this source: protobuf writes the entry of its metadata as plain bytes."""
    entry = f"{_ORIGIN_KEY}\x12{chr(len(origin))}{origin}".encode()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.rfind(entry) >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _converted(onnx: Path, origin: str) -> bytes | None:
    """Return the model in FP16 as the bytes of a checked ONNX file; None where it is FP16 already."""
    try:
        from onnx import checker, load  # noqa: PLC0415 -- slow to import, and needed only where a model changed

        from edge.backends import fp16  # noqa: PLC0415 -- imports onnx
    except ImportError as error:
        raise ModelError(
            f"model {onnx} cannot be converted to FP16: the Python package {error.name!r} is not installed; "
            "install it with `pip install 'edge-runtime[jetson]'`"
        ) from None
    try:
        model = load(onnx)
        checker.check_model(model)
        if fp16.is_fp16(model):
            return None
        model, kept = fp16.to_fp16(model)
        model.metadata_props.add(key=_ORIGIN_KEY, value=origin)
        checker.check_model(model, full_check=True)
        converted: bytes = model.SerializeToString()
    except ModelError as error:
        raise ModelError(f"model {onnx} cannot be converted to FP16: {error}") from None
    except Exception as error:  # noqa: BLE001 -- the exceptions of onnx and protobuf have no common type
        raise ModelError(
            f"model {onnx} cannot be converted to FP16 ({_one_line(error)}); wanted a complete and valid ONNX file of "
            "at most 2 GB: export it again, or use precision fp32"
        ) from None
    _tell(onnx, kept)
    return converted


def _tell(onnx: Path, kept: list[str]) -> None:
    if kept:
        log.info(
            "model %s: %d nodes stay FP32, because a constant of theirs is beyond the ±65504 of FP16: %s",
            onnx,
            len(kept),
            ", ".join(kept),
        )


def keep_derived(data: bytes, onnx: Path, state_dir: Path, kind: str, origin_key: str) -> Path:
    """Write a file made from a model, where that is possible, and return its place.

    `origin_key` is in the metadata of such files.
    """
    beside, in_state = derived_places(onnx, state_dir, kind)
    # A file of this name that we did not make is its owner's.
    if not beside.exists() or _holds(beside, origin_key):
        try:
            _write(beside, data, onnx)
        except OSError as error:
            log.debug("%s cannot be written (%s)", beside, error)
        else:
            return beside
    try:
        in_state.parent.mkdir(parents=True, exist_ok=True)
        _write(in_state, data, onnx)
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


def _write(path: Path, data: bytes, source: Path) -> None:
    """Write a file so that it is there whole or not at all, with the rights of its source."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    written = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(source, written)
        written.replace(path)
    except BaseException:
        written.unlink()
        raise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_TOLD]
