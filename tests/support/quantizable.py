"""A small network with all that matters to quantization: batch normalisation, a residual sum, a concatenation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge.inference.backends.input_tensors import Feed
from tests.support.configuration import write_toml

SIDE = 16
Images = NDArray[np.float32]


def network(folder: Path, *, opset: int = 11, batch: int | str = 1, extra: list[Any] | None = None) -> Path:
    """Write the network; `extra` nodes come first, from `images` to `seen`."""
    random = np.random.default_rng(7)
    weights: list[Any] = []

    def weight(name: str, *shape: int, mean: float = 0.0) -> str:
        values = (random.normal(mean, 0.4, shape)).astype(np.float32)
        weights.append(numpy_helper.from_array(np.abs(values) + 0.1 if name == "var" else values, name))
        return name

    channels = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "var": 1.0}
    norm = [weight(name, 8, mean=mean) for name, mean in channels.items()]
    nodes = [
        *(extra or [helper.make_node("Identity", ["images"], ["seen"])]),
        helper.make_node("Conv", ["seen", weight("w1", 8, 3, 3, 3)], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node(
            "Conv", ["c", weight("w2", 8, 1, 3, 3), weight("b2", 8)], ["d"], "deep", pads=[1] * 4, group=8
        ),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Conv", ["e", weight("w3", 8, 8, 1, 1), weight("b3", 8)], ["f"], "mix"),
        helper.make_node("Add", ["f", "c"], ["g"], "sum"),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("Concat", ["h", "e"], ["i"], "join", axis=1),
        helper.make_node("Conv", ["i", weight("w4", 4, 16, 1, 1), weight("b4", 4)], ["j"], "head"),
        helper.make_node("GlobalAveragePool", ["j"], ["k"]),
        helper.make_node("Flatten", ["k"], ["l"]),
        helper.make_node("Gemm", ["l", weight("w5", 5, 4), weight("b5", 5)], ["scores"], "classes", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "quantizable",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, folder / "network.onnx")
    return folder / "network.onnx"


def classifier_folder(parent: Path) -> Path:
    """Write a model folder of the network."""
    folder = parent / "classifier"
    folder.mkdir()
    network(folder, batch="N")
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    tables = {"input": {"color": "rgb", "scale": 1 / 255}, "output": {"decoder": "topk", "score_threshold": 0.0}}
    write_toml(folder / "model.toml", tables)
    head = 'task = "classify"\nonnx = "network.onnx"\nlabels = "labels.txt"\n'
    (folder / "model.toml").write_text(head + (folder / "model.toml").read_text(), encoding="utf-8")
    return folder


def pictures_folder(parent: Path) -> Path:
    """Write a folder of 12 pictures as large as the network's input."""
    folder = parent / "pictures"
    folder.mkdir()
    random = np.random.default_rng(4)
    for number in range(12):
        coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(coarse, (SIDE, SIDE)))
    return folder


def images(count: int, seed: int = 1) -> list[Images]:
    """Return inputs like pictures: smooth, not noise."""
    random = np.random.default_rng(seed)
    coarse = random.random((count, 1, 3, 4, 4), np.float32)
    return [each.repeat(4, axis=2).repeat(4, axis=3) for each in coarse]


def feeds(rows: Iterable[Images]) -> Iterator[Feed]:
    """Return inputs by the network's name for them."""
    return ({"images": each} for each in rows)


def run(model: ModelProto, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first output of a model for rows of images."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"images": rows})[0]
    return found
