"""Layers that ONNX Runtime runs for a model: its optimised graph, read from the profile of one run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from edge.core.errors import EngineError
from edge.core.manifest import InputSettings
from edge.inference.backends.ort import OrtEngine
from edge.inference.backends.tensorrt.layers import EngineLayer, LayerTensor, precision_of

_END = "_kernel_time"  # suffix of the events of nodes that ran
# These convert a tensor's format or type, and compute nothing.
_REFORMATS = frozenset({"ReorderInput", "ReorderOutput", "Cast"})


def profile_layers(onnx: Path, scratch: Path, inputs: InputSettings | None = None) -> tuple[EngineLayer, ...]:
    """Run a model once on the CPU, on zeros at batch 1; return each node that ONNX Runtime ran, once.

    `scratch` is a folder for the profile; `inputs` sets open sizes and further inputs. Raises ModelError if the model
    cannot be opened, EngineError if it cannot be run.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return read_profile(_profile(onnx, Path(folder), inputs).read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(
            f"{scratch} cannot be written ({error.strerror}); wanted a folder with room for {onnx.name}'s profile"
        ) from None


def _profile(onnx: Path, folder: Path, inputs: InputSettings | None) -> Path:
    engine = OrtEngine(onnx, threads=1, profile=folder / "run", inputs=inputs)
    with closing(engine), engine.make_context(1) as context:
        context.infer(1)
        return engine.end_profile()


def read_profile(profile: str) -> tuple[EngineLayer, ...]:
    """Parse ONNX Runtime's profile; raise EngineError if it has no node.

    A node that a loop runs several times is one layer.
    """
    try:
        events = json.loads(profile)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"ONNX Runtime's profile is not JSON ({error}); wanted a list of events") from None
    nodes: dict[tuple[str, str], EngineLayer] = {}
    for each in events if isinstance(events, list) else []:
        if (layer := _layer(each)) is not None:
            nodes.setdefault((layer.name, str(each["args"].get("node_index"))), layer)
    if not nodes:
        raise EngineError("ONNX Runtime's profile contains no node; please report it with your version of ONNX Runtime")
    return tuple(nodes.values())


def _layer(entry: Any) -> EngineLayer | None:
    """Return the node of a profile entry; None for an entry of another kind."""
    name, args = (entry.get("name"), entry.get("args")) if isinstance(entry, dict) else (None, None)
    if not (isinstance(name, str) and name.endswith(_END) and isinstance(args, dict)):
        return None
    kind = args.get("op_name") if isinstance(args.get("op_name"), str) else None
    outputs = tuple(_tensor(each) for each in _list(args.get("output_type_shape")) if isinstance(each, dict) and each)
    return EngineLayer(
        name.removesuffix(_END),
        kind,
        precision=outputs[0].precision if outputs else None,
        is_reformat=kind in _REFORMATS,
        inputs=tuple(_tensor(each) for each in _list(args.get("input_type_shape")) if isinstance(each, dict) and each),
        outputs=outputs,
    )


def _tensor(entry: Mapping[str, Any]) -> LayerTensor:
    """Parse `{"float": [1, 64, 112, 112]}`; tensors have no names here."""
    dtype, shape = next(iter(entry.items()))
    sizes = tuple(shape) if isinstance(shape, list) and all(type(size) is int for size in shape) else None
    return LayerTensor("", sizes, precision_of(dtype), None)


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []
