"""The FP16 form of a model's ONNX file, kept beside it and made anew when the model has changed.

TensorRT's networks are strongly typed: the precision stands in the ONNX file that it is given.
"""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.core.errors import ModelError
from edge.inference.derived_files import derived_paths, keep_derived, source_sha256

log = logging.getLogger(__name__)

_ORIGIN_KEY = "edge.fp16_of"  # in the file's metadata: what it was made from
_CHOICE_KEY = "edge.fp16_choice"  # likewise: what stays FP32 in it; absent where nothing was chosen
_RULES = 1  # counts up when the same source is converted differently, so that older files are made anew
_MAX_TOLD = 300  # characters of a reason that a library gave


@dataclass(frozen=True)
class RangeCheck:
    """What came of running a model on real inputs."""

    keep: tuple[str, ...]  # the nodes that FP16 is too narrow for
    data_sha256: str  # of the inputs


@dataclass(frozen=True)
class _Choice:
    """What stays FP32 in a file."""

    keep: tuple[str, ...] = ()  # nodes
    data_sha256: str | None = None  # of the inputs on which they were found; None: the ranges were not checked
    blocked: tuple[str, ...] = ()  # operator types

    def changed(self, ranges: RangeCheck | None, blocked: Collection[str] | None) -> _Choice:
        """Return the choice with what is given; None leaves as it is."""
        return _Choice(
            self.keep if ranges is None else tuple(sorted(ranges.keep)),
            self.data_sha256 if ranges is None else ranges.data_sha256,
            self.blocked if blocked is None else tuple(sorted(set(blocked))),
        )


def fp16_file(
    onnx: Path, state_dir: Path, *, ranges: RangeCheck | None = None, blocked: Collection[str] | None = None
) -> Path:
    """Return the model in FP16, its inputs and outputs as they are; a model that is FP16 already is returned itself.

    It is NAME.fp16.onnx beside the source, or in the state's `models/` where it cannot be written there. FP32 stay the
    nodes that a check of the ranges found, and those of operator types that are blocked. Where one is not given, it
    stays as it was chosen for the file that is there, until the source changes.
    """
    origin = f"{_RULES}:{source_sha256(onnx)}"
    places = derived_paths(onnx, state_dir, "fp16.onnx")
    found = [(path, choice) for path in places if (choice := _choice_of(path, origin)) is not None]
    # Where the folder was read-only when ranges were checked, the file beside the source knows nothing of them.
    found.sort(key=lambda each: each[1].data_sha256 is None)
    wanted = (found[0][1] if found else _Choice()).changed(ranges, blocked)
    for path, choice in found:
        if choice == wanted:
            return path
    converted = _converted(onnx, origin, wanted)
    return onnx if converted is None else keep_derived(converted, onnx, state_dir, "fp16", _ORIGIN_KEY)


def _choice_of(path: Path, origin: str) -> _Choice | None:
    """Return what was chosen for a file; None where it is damaged, or made from another source.

    Protobuf writes the entries of its metadata as plain bytes.
    """
    entry = f"{_ORIGIN_KEY}\x12{chr(len(origin))}{origin}".encode()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.rfind(entry) < 0:
                return None
            key = f"{_CHOICE_KEY}\x12".encode()
            place = data.rfind(key)
            return _Choice() if place < 0 else _read_choice(data, place + len(key))
    except (OSError, ValueError, LookupError):  # an empty file is a ValueError, a cut entry one of the others
        return None


def _read_choice(data: mmap.mmap, place: int) -> _Choice:
    """Read an entry's value: its length, seven bits a byte and the lowest first, then so many bytes."""
    length = shift = 0
    while True:
        byte = data[place]
        length |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 -- the eighth bit says that more follow
            break
    told = json.loads(data[place : place + length])
    return _Choice(tuple(told["keep"]), told["data_sha256"], tuple(told["blocked"]))


def _converted(onnx: Path, origin: str, choice: _Choice) -> bytes | None:
    """Return the model in FP16 as the bytes of a checked ONNX file; None where it is FP16 already."""
    try:
        from onnx import checker, load  # noqa: PLC0415 -- slow to import, and needed only where a model changed

        from edge.inference.fp16 import cast as fp16  # noqa: PLC0415 -- imports onnx
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
            f"model {onnx} cannot be converted to FP16 ({_one_line(error)}); wanted a complete and valid ONNX file of "
            "at most 2 GB: export it again, or use precision fp32"
        ) from None
    _tell(onnx, kept, "because a constant of theirs is beyond the ±65504 of FP16")
    _tell(onnx, choice.keep, "because they go beyond what is safe in FP16 on the calibration inputs")
    return converted


def _tell(onnx: Path, nodes: Collection[str], reason: str) -> None:
    if nodes:
        log.info("model %s: %d nodes stay FP32, %s: %s", onnx, len(nodes), reason, ", ".join(nodes))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_TOLD]
