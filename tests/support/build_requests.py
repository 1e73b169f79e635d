"""Requests for plans, and models to build them of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.inference.backends.tensorrt.build_progress import Reporter
from edge.inference.backends.tensorrt.build_protocol import BuildFacts, BuildRequest, BuildSettings
from edge.inference.backends.tensorrt.builder import build

SETTINGS = BuildSettings("fp32", "gpu", max_batch=4, builder_level=3, workspace_mb=256)
ROW = (3, 16, 16)


def request_in(
    folder: Path, path: Path, *, fp32: Path | None = None, tactic_mb: int | None = None, **settings: Any
) -> BuildRequest:
    return BuildRequest(
        onnx=path,
        fp32_onnx=fp32 or path,
        settings=replace(SETTINGS, **settings),
        plan=folder / "made.plan",
        tactic_mb=tactic_mb,
        timing_folder=folder / "timing",
        machine="Orin-sm_87-8sm-board",
        log_level=30,
    )


def built(request: BuildRequest) -> BuildFacts:
    return build(request, Reporter(lambda _: None))


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    shape: list[Any] | None = None,
    result: list[Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    domain: str = "",
) -> Path:
    """Write a model from `x` of this shape to `y`."""
    shape = ["n", *ROW] if shape is None else shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, result)
    inits = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", [x], [y], inits)
    opsets = [helper.make_opsetid("", 19), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path
