"""A model that costs nothing, with a decoder of its own."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

# Of one's own: one box over the input's left upper quarter, whatever the picture.
ONE_BOX = """
import numpy as np

def decode(outputs, options):
    boxes = np.array([[0, 0, 16, 16]], np.float32)
    return boxes, np.array([0.9], np.float32), np.array([0])
"""


def tiny_model(folder: Path, decoder: str = ONE_BOX) -> Path:
    """Make a model folder of a network that costs nothing, read by a decoder of one's own."""
    folder.mkdir()
    pool = helper.make_node("GlobalAveragePool", ["images"], ["means"])
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["n", 3, 1, 1])
    graph = helper.make_graph([pool], "tiny", [images], [means])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "tiny.onnx")
    (folder / "labels.txt").write_text("thing\n", encoding="utf-8")
    (folder / "own_decoder.py").write_text(decoder, encoding="utf-8")
    (folder / "model.toml").write_text(
        'task = "detect"\nonnx = "tiny.onnx"\nlabels = "labels.txt"\n[output]\ndecoder = "own_decoder:decode"\n',
        encoding="utf-8",
    )
    return folder
