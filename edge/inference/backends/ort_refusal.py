"""Reasons why ONNX Runtime does not open a model, each with the step that helps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edge.core.errors import ModelError
from edge.core.onnx_file import OnnxFile

# Domains of operators that ONNX Runtime may know.
_KNOWN_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
_MAX_IR = re.compile(r"max supported IR version: (\d+)")
_MAX_OPSET = re.compile(r"[Oo]pset (\d+) .*support for domain (\S+) is till opset (\d+)")
_UNKNOWN_OPERATOR = re.compile(
    r"(\S+)\(-?\d+\) is not a registered|No Op registered for (\S+)|No opset import for domain"
)
_PLUGIN = re.compile(r"_TRT\d*$|^TRT|Plugin")
_SHOWN_OPERATORS = 3


def refusal(onnx: Path, reason: str, version: str, sizes: Mapping[str, int]) -> ModelError:
    """Return the error for a file that ONNX Runtime of this version did not open, for this reason.

    `sizes` are those that were set of its open axes.
    """
    file = OnnxFile(onnx)
    try:
        is_whole = bool(file.inputs or file.outputs)
    except ModelError:
        is_whole = False
    if not is_whole:
        return ModelError(
            f"model {onnx} cannot be loaded ({reason}); wanted a complete ONNX file: fetch or export it again"
        )
    try:
        file.external_paths()
    except ModelError as error:
        return error
    return _of_whole_file(file, reason, version, sizes)


def _of_whole_file(file: OnnxFile, reason: str, version: str, sizes: Mapping[str, int]) -> ModelError:
    onnx = file.path
    if not file.outputs:
        return ModelError(f"model {onnx} has no outputs; wanted a model that returns what it finds: export it again")
    installed = f"ONNX Runtime {version}, which is installed,"
    if match := _MAX_IR.search(reason):
        return ModelError(
            f"model {onnx} has IR version {file.ir_version}, and {installed} reads up to {match[1]}; install a newer "
            f"ONNX Runtime, one that reads {file.ir_version}, or export the model with an older version of onnx"
        )
    if match := _MAX_OPSET.search(reason):
        domain = "" if match[2] == "ai.onnx" else f" of {match[2]}"
        return ModelError(
            f"model {onnx} has opset {match[1]}{domain}, and {installed} knows up to {match[3]}; install a newer ONNX "
            f"Runtime, one that knows {match[1]}, or export the model again with opset {match[3]} or lower"
        )
    if match := _UNKNOWN_OPERATOR.search(reason):
        return _unknown_operators(file, match[1] or match[2], version)
    if sizes:
        text = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        return ModelError(
            f"model {onnx} does not take an input with {text} ({reason}); give the size that it was trained with: "
            "size = [width, height] in [input], --size of `edge engines add`"
        )
    return ModelError(
        f"model {onnx} is complete, but ONNX Runtime {version} cannot load it ({reason}); export it in another way, "
        "such as in FP32 or with another opset"
    )


def _unknown_operators(file: OnnxFile, named: str | None, version: str) -> ModelError:
    """Return the error for operators that only their own library knows: TensorRT's plugins, or custom ones."""
    unknown = sorted((domain, name) for domain, name in file.operators if domain not in _KNOWN_DOMAINS)
    plugins = [name for domain, name in unknown if _PLUGIN.search(name) or domain.casefold().startswith("trt")]
    names = plugins or [f"{domain}:{name}" for domain, name in unknown] or [str(named).partition("(")[0]]
    shown = ", ".join(names[:_SHOWN_OPERATORS]) + (", …" if len(names) > _SHOWN_OPERATORS else "")
    if plugins or _PLUGIN.search(names[0]):
        return ModelError(
            f"model {file.path} ends in {shown}, which only TensorRT can run: this machine's ONNX Runtime {version} "
            "cannot; build an engine on the board (`trtexec --onnx=FILE --saveEngine=FILE.engine`) for `edge engines "
            "add FILE.engine`, or export the model without it (no NMS in the file)"
        )
    return ModelError(
        f"model {file.path} uses {shown}, which ONNX Runtime {version} does not know; wanted operators of ONNX: export "
        "the model without custom operators, or without its post-processing"
    )
