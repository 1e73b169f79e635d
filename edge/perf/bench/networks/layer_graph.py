"""Graph of a network's layers, with the shapes of one image and weights without values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]

# A ReLU halves the variance, and weights of twice the variance restore it (He et al. 2015, eq. 10).
RECTIFIED = 2.0
LINEAR = 1.0
_SPREAD = 0.1  # of biases and batch-normalisation parameters about their usual values


@dataclass(frozen=True)
class Tensor:
    """Tensor between layers; `shape` is that of one image, without the batch axis."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Weight:
    """Weights to draw from a Gaussian of this mean and standard deviation."""

    name: str
    shape: Shape
    std: float
    mean: float = 0.0
    learnt: bool = True  # counts as a parameter


@dataclass(frozen=True)
class Node:
    """One ONNX operator."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass
class LayerGraph:
    """Layers in the order in which they were added; each method adds one and returns its output."""

    input: Tensor
    output: Tensor = field(init=False)  # set by the last layer
    nodes: list[Node] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    multiplications: int = 0  # multiply-accumulates per image, as papers count them: layers with weights only

    @property
    def parameters(self) -> int:
        """Number of trainable parameters: weights, biases, scale and shift of batch normalisation."""
        return sum(prod(weight.shape) for weight in self.weights if weight.learnt)

    def node(self, op: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> Tensor:
        """Add an operator with one output."""
        return Tensor(self.nodes_out(op, inputs, 1, attributes)[0], shape)

    def nodes_out(self, op: str, inputs: Sequence[str], outputs: int, attributes: Mapping[str, Any]) -> list[str]:
        """Add an operator with several outputs; return their names."""
        name = f"{op}_{len(self.nodes)}"
        names = [f"{name}_out{number}" for number in range(outputs)]
        self.nodes.append(Node(op, name, tuple(inputs), tuple(names), attributes))
        return names

    def weight(self, shape: Shape, std: float, mean: float = 0.0, *, learnt: bool = True) -> str:
        """Add a weight; return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(Weight(name, shape, std, mean, learnt))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """Add given numbers, such as limits or axes; return their name."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = value
        return name

    def convolution(
        self,
        x: Tensor,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        bias: bool = True,
        gain: float = RECTIFIED,
    ) -> Tensor:
        """Add a convolution; by default, `pad` keeps the size at stride 1. `kernel` is a side, or height × width."""
        size = _pair(kernel)
        pads = ((size[0] - 1) // 2, (size[1] - 1) // 2) if pad is None else (pad, pad)
        within = x.shape[0] // groups * prod(size)
        inputs = [x.name, self.weight((channels, x.shape[0] // groups, *size), (gain / within) ** 0.5)]
        inputs += [self.weight((channels,), _SPREAD)] if bias else []
        shape = (channels, *_sizes(x.shape, size, stride, (*pads, *pads)))
        self.multiplications += prod(shape) * within
        settings = {"kernel_shape": size, "strides": _pair(stride), "pads": (*pads, *pads), "group": groups}
        return self.node("Conv", inputs, shape, **settings)

    def batch_norm(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """Add a batch normalisation as at inference, for an input of about mean 0 and variance 1."""
        channels = x.shape[:1]
        inputs = [
            x.name,
            self.weight(channels, _SPREAD * gain, gain),  # scale
            self.weight(channels, _SPREAD),  # shift
            self.weight(channels, _SPREAD, learnt=False),  # mean
            self.weight(channels, _SPREAD, 1.0, learnt=False),  # variance, ten deviations above 0
        ]
        return self.node("BatchNormalization", inputs, x.shape, epsilon=1e-3)

    def relu(self, x: Tensor) -> Tensor:
        return self.node("Relu", [x.name], x.shape)

    def relu6(self, x: Tensor) -> Tensor:
        for name in ("zero", "six"):
            self.constants.setdefault(name, np.array({"zero": 0, "six": 6}[name], np.float32))
        return self.node("Clip", [x.name, "zero", "six"], x.shape)

    def max_pool(self, x: Tensor, kernel: int, stride: int, pads: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Tensor:
        """Add a max pooling; `pads` are top, left, bottom, right."""
        shape = (x.shape[0], *_sizes(x.shape, _pair(kernel), stride, pads))
        return self.node("MaxPool", [x.name], shape, kernel_shape=_pair(kernel), strides=_pair(stride), pads=pads)

    def mean_pool(self, x: Tensor, kernel: int = 3) -> Tensor:
        """Add a mean pooling at stride 1 that ignores the padding and keeps the size."""
        pads = (kernel // 2,) * 4
        return self.node("AveragePool", [x.name], x.shape, kernel_shape=_pair(kernel), strides=(1, 1), pads=pads)

    def response_norm(self, x: Tensor) -> Tensor:
        """Add a local response normalisation over 5 channels (Krizhevsky et al. 2012, 3.3, with Caffe's bias of 1)."""
        return self.node("LRN", [x.name], x.shape, size=5, alpha=1e-4, beta=0.75, bias=1.0)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return self.node("Concat", [part.name for part in parts], shape, axis=1)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.node("Add", [x.name, y.name], x.shape)

    def mean(self, x: Tensor) -> Tensor:
        """Add a mean over the whole image, without its two axes."""
        pooled = self.node("GlobalAveragePool", [x.name], (x.shape[0], 1, 1))
        return self.flatten(pooled)

    def flatten(self, x: Tensor) -> Tensor:
        return self.node("Flatten", [x.name], (prod(x.shape),), axis=1)

    def dense(self, x: Tensor, outputs: int, gain: float = LINEAR) -> Tensor:
        """Add a fully connected layer."""
        within = x.shape[0]
        inputs = [x.name, self.weight((outputs, within), (gain / within) ** 0.5), self.weight((outputs,), _SPREAD)]
        self.multiplications += outputs * within
        return self.node("Gemm", inputs, (outputs,), transB=1)

    def softmax(self, x: Tensor) -> Tensor:
        return self.node("Softmax", [x.name], x.shape, axis=-1)

    def classify(self, x: Tensor, classes: int = 1000) -> LayerGraph:
        """Add the classifier of ImageNet's classes; return the finished graph."""
        self.output = self.softmax(self.dense(x, classes))
        return self


def image_graph(side_px: int) -> LayerGraph:
    """Create an empty graph for square colour images."""
    return LayerGraph(Tensor("images", (3, side_px, side_px)))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _sizes(shape: Shape, kernel: tuple[int, int], stride: int, pads: tuple[int, int, int, int]) -> tuple[int, int]:
    height, width = shape[1:]
    top, left, bottom, right = pads
    return (height + top + bottom - kernel[0]) // stride + 1, (width + left + right - kernel[1]) // stride + 1
