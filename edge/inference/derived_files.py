"""Files derived from a model, beside it or in the state directory, and the hash of their source."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from edge.core.engine_file import is_engine_file
from edge.core.errors import ModelError
from edge.core.files import permissions, write_atomic
from edge.core.onnx_file import OnnxFile

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
_CHUNK_BYTES = 1 << 20
_PATH_DIGITS = 12  # of the hash of a model's path: models of one name may lie in several folders


def derived_paths(onnx: Path, state_dir: Path, suffix: str, *, beside: str | None = None) -> tuple[Path, Path]:
    """Return both paths of a derived file: beside the model, and in the state directory if that folder is read-only.

    They are NAME.SUFFIX, or `beside` if given, and NAME-DIGITS.SUFFIX.
    """
    in_state = derived_folder(onnx, state_dir)
    return onnx.with_name(beside or f"{onnx.stem}.{suffix}"), in_state.with_name(f"{in_state.name}.{suffix}")


def places_to_write(onnx: Path, state_dir: Path, suffix: str, *, beside: str | None = None) -> tuple[Path, ...]:
    """Return the paths of a derived file in the order in which to try them; the installed package is left as it is."""
    paths = derived_paths(onnx, state_dir, suffix, beside=beside)
    return paths[1:] if onnx.resolve().is_relative_to(_PACKAGE) else paths


def derived_folder(onnx: Path, state_dir: Path) -> Path:
    """Return the folder in the state directory for files derived from the model at this path."""
    digits = hashlib.sha256(os.fsencode(onnx.resolve())).hexdigest()[:_PATH_DIGITS]
    return state_dir / "models" / f"{onnx.stem}-{digits}"


def write_variant(data: bytes, onnx: Path, state_dir: Path, kind: str, origin_key: str) -> Path:
    """Write a variant beside the model, else to the state directory; return its path.

    `origin_key` is in the metadata of the variants that we write. A variant in the state directory comes before one
    beside the model, so an older one there is removed.
    """
    beside, in_state = derived_paths(onnx, state_dir, f"{kind}.onnx")
    reason = ""
    for path in places_to_write(onnx, state_dir, f"{kind}.onnx"):
        if path == beside and beside.exists() and not _holds(beside, origin_key):
            continue  # a file of this name that we did not write belongs to the user
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data, durable=True, mode=permissions(onnx))
            if path == beside:
                in_state.unlink(missing_ok=True)
        except OSError as error:
            reason = str(error.strerror)
            log.debug("%s cannot be written (%s)", path, reason)
        else:
            return path
    raise ModelError(
        f"the {kind.upper()} variant of model {onnx} can be written neither beside it nor to {in_state} "
        f"({reason}); check the folders' permissions and the free space"
    )


def _holds(path: Path, origin_key: str) -> bool:
    try:
        return f"{origin_key}\x12".encode() in path.read_bytes()
    except OSError:
        return False


def source_sha256(onnx: Path) -> str:
    """Return a model's hash: of its ONNX file and its external data files, or of its engine file."""
    digest = hashlib.sha256()
    try:
        external = [] if is_engine_file(onnx) else OnnxFile(onnx).external_paths()
        for path in (onnx, *external):
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
    except OSError as error:
        raise ModelError(
            f"{error.filename or onnx} cannot be read ({error.strerror}); wanted a readable model file"
        ) from None
    return digest.hexdigest()
