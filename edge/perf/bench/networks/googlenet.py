"""GoogLeNet, without the two heads used only in training."""

from __future__ import annotations

from edge.perf.bench.networks.layer_graph import LayerGraph, Tensor, image_graph

# Channels of each module: 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5 and pooling (Szegedy et al. 2014, table 1); None:
# the size is halved there.
_MODULES = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def googlenet() -> LayerGraph:
    """Build GoogLeNet (Szegedy et al. 2014)."""
    graph = image_graph(224)
    x = _halved(graph, _convolved(graph, graph.input, 64, 7, stride=2))
    x = _convolved(graph, graph.response_norm(x), 64, 1)
    x = _convolved(graph, x, 192, 3)
    x = _halved(graph, graph.response_norm(x))
    for channels in _MODULES:
        x = _halved(graph, x) if channels is None else _module(graph, x, channels)
    return graph.classify(graph.mean(x))


def _module(graph: LayerGraph, x: Tensor, channels: tuple[int, int, int, int, int, int]) -> Tensor:
    one, before_three, three, before_five, five, pooled = channels
    branches = [
        _convolved(graph, x, one, 1),
        _convolved(graph, _convolved(graph, x, before_three, 1), three, 3),
        _convolved(graph, _convolved(graph, x, before_five, 1), five, 5),
        _convolved(graph, graph.max_pool(x, 3, 1, (1, 1, 1, 1)), pooled, 1),
    ]
    return graph.concatenate(branches)


def _convolved(graph: LayerGraph, x: Tensor, channels: int, kernel: int, stride: int = 1) -> Tensor:
    return graph.relu(graph.convolution(x, channels, kernel, stride=stride))


def _halved(graph: LayerGraph, x: Tensor) -> Tensor:
    """Pool maxima of 3×3 at stride 2, including the last row and column, as the paper's sizes require."""
    return graph.max_pool(x, 3, 2, (0, 0, 1, 1))
