"""FP16 variant of a model's ONNX file, cached beside it and converted again when the model changes.

TensorRT's networks are strongly typed: the ONNX file determines their precision.
"""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.core.errors import ModelError, error_text
from edge.core.installation import install_advice
from edge.inference.derived_files import derived_paths, source_sha256, write_variant

log = logging.getLogger(__name__)

_ORIGIN_KEY = "edge.fp16_of"  # in the file's metadata: the source it was converted from
_CHOICE_KEY = "edge.fp16_choice"  # likewise: what stays FP32 in it; absent if nothing does by choice
_RULES = 1  # raised when the same source is converted differently, so that older files are replaced


@dataclass(frozen=True)
class RangeCheck:
    """Outcome of running a model on real inputs."""

    keep: tuple[str, ...]  # nodes whose values exceed FP16
    data_sha256: str  # of the inputs


@dataclass(frozen=True)
class _Choice:
    """Parts of a file that stay FP32 by choice."""

    keep: tuple[str, ...] = ()  # nodes
    data_sha256: str | None = None  # of the inputs that showed it; None: ranges not checked
    blocked: tuple[str, ...] = ()  # operator types

    def changed(self, ranges: RangeCheck | None, blocked: Collection[str] | None) -> _Choice:
        """Return the choice with the given parts replaced; None keeps a part."""
        return _Choice(
            self.keep if ranges is None else tuple(sorted(ranges.keep)),
            self.data_sha256 if ranges is None else ranges.data_sha256,
            self.blocked if blocked is None else tuple(sorted(set(blocked))),
        )


def fp16_file(
    onnx: Path, state_dir: Path, *, ranges: RangeCheck | None = None, blocked: Collection[str] | None = None
) -> Path:
    """Return the FP16 variant of a model, with inputs and outputs of the same types; an FP16 model is returned itself.

    The file is NAME.fp16.onnx beside the source, or in the state's `models/` if it cannot be written there. FP32 stay
    the nodes that a range check found and those of blocked operator types. An argument that is None keeps the choice
    of the existing file, until the source changes.
    """
    origin = f"{_RULES}:{source_sha256(onnx)}"
    paths = derived_paths(onnx, state_dir, "fp16.onnx")
    existing = [(path, choice) for path in paths if (choice := _choice_of(path, origin)) is not None]
    # Where the folder was read-only when ranges were checked, the file beside the source lacks them.
    existing.sort(key=lambda each: each[1].data_sha256 is None)
    chosen = (existing[0][1] if existing else _Choice()).changed(ranges, blocked)
    for path, choice in existing:
        if choice == chosen:
            return path
    converted = _converted(onnx, origin, chosen)
    return onnx if converted is None else write_variant(converted, onnx, state_dir, "fp16", _ORIGIN_KEY)


def _choice_of(path: Path, origin: str) -> _Choice | None:
    """Return the choice that a file was converted with; None if it is damaged, or of another source.

    Protobuf writes metadata entries as plain bytes.
    """
    entry = f"{_ORIGIN_KEY}\x12{chr(len(origin))}{origin}".encode()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.rfind(entry) < 0:
                return None
            key = f"{_CHOICE_KEY}\x12".encode()
            position = data.rfind(key)
            return _Choice() if position < 0 else _read_choice(data, position + len(key))
    except (OSError, ValueError, LookupError):  # ValueError: an empty file; the others: a truncated entry
        return None


def _read_choice(data: mmap.mmap, position: int) -> _Choice:
    """Read a protobuf string: its length as a varint, then its bytes."""
    length = shift = 0
    while True:
        byte = data[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 -- the eighth bit says that more follow
            break
    stored = json.loads(data[position : position + length])
    return _Choice(tuple(stored["keep"]), stored["data_sha256"], tuple(stored["blocked"]))


def _converted(onnx: Path, origin: str, choice: _Choice) -> bytes | None:
    """Convert the model to the bytes of a checked ONNX file; None if it is FP16 already."""
    try:
        from onnx import checker, load  # noqa: PLC0415 -- slow to import, and needed only when a model has changed

        from edge.inference.fp16 import cast as fp16  # noqa: PLC0415 -- imports onnx
    except ImportError as error:
        raise ModelError(
            f"model {onnx} cannot be converted to FP16: the Python package {error.name!r} is not installed; "
            f"{install_advice()}"
        ) from None
    try:
        model = load(onnx)
        checker.check_model(model)
        if fp16.is_fp16(model):
            return None
        model, kept = fp16.to_fp16(model, choice.keep, choice.blocked)
        if choice != _Choice():
            model.metadata_props.add(key=_CHOICE_KEY, value=json.dumps(asdict(choice)))
        model.metadata_props.add(key=_ORIGIN_KEY, value=origin)
        checker.check_model(model, full_check=True)
        converted: bytes = model.SerializeToString()
    except ModelError as error:
        raise ModelError(f"model {onnx} cannot be converted to FP16: {error}") from None
    except Exception as error:  # noqa: BLE001 -- the exceptions of onnx and protobuf have no common type
        raise ModelError(
            f"model {onnx} cannot be converted to FP16 ({error_text(error)}); wanted a complete and valid ONNX file of "
            "at most 2 GB: export it again, or use precision fp32"
        ) from None
    _log_kept(onnx, kept, "because they have constants beyond the ±65504 of FP16")
    _log_kept(onnx, choice.keep, "because they exceed the safe range of FP16 on the calibration inputs")
    return converted


def _log_kept(onnx: Path, nodes: Collection[str], reason: str) -> None:
    if nodes:
        log.info("model %s: %d nodes stay in FP32, %s: %s", onnx, len(nodes), reason, ", ".join(nodes))
