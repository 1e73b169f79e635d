"""Residual networks: ResNet-50, ResNet-152 and MobileNet-v2."""

from __future__ import annotations

from edge.perf.bench.networks.layer_graph import LINEAR, RECTIFIED, LayerGraph, Tensor, image_graph

# Scale of a block's output relative to its bypass: with more, fifty additions would overflow FP16.
_ADDED = 0.25
# Expansion factor, channels, blocks, stride of the first block (Sandler et al. 2018, table 2).
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def resnet_50() -> LayerGraph:
    """Build ResNet-50 (He et al. 2015, table 1)."""
    return _resnet((3, 4, 6, 3))


def resnet_152() -> LayerGraph:
    """Build ResNet-152 (He et al. 2015, table 1)."""
    return _resnet((3, 8, 36, 3))


def _resnet(blocks: tuple[int, int, int, int]) -> LayerGraph:
    graph = image_graph(224)
    x = graph.relu(_normalised(graph, graph.input, 64, 7, 2))
    x = graph.max_pool(x, 3, 2, (1, 1, 1, 1))
    for stage, count in enumerate(blocks):
        for block in range(count):
            x = _bottleneck(graph, x, 64 << stage, 2 if stage and not block else 1)
    return graph.classify(graph.mean(x))


def _bottleneck(graph: LayerGraph, x: Tensor, width: int, stride: int) -> Tensor:
    """Add 1×1, 3×3, 1×1; the 3×3 layer has the stride, as is usual today (4.1 GMAC; the paper: 3.8)."""
    wide = 4 * width
    past = x if x.shape[0] == wide else _normalised(graph, x, wide, 1, stride, LINEAR)
    x = graph.relu(_normalised(graph, x, width, 1))
    x = graph.relu(_normalised(graph, x, width, 3, stride))
    x = graph.batch_norm(graph.convolution(x, wide, 1, bias=False), _ADDED)
    return graph.relu(graph.add(x, past))


def _normalised(
    graph: LayerGraph, x: Tensor, channels: int, kernel: int, stride: int = 1, gain: float = RECTIFIED
) -> Tensor:
    return graph.batch_norm(graph.convolution(x, channels, kernel, stride=stride, bias=False, gain=gain))


def mobilenet_v2() -> LayerGraph:
    """Build MobileNet-v2 of width 1."""
    graph = image_graph(224)
    x = graph.relu6(_normalised(graph, graph.input, 32, 3, 2))
    for factor, channels, blocks, stride in _MOBILENET_V2:
        for block in range(blocks):
            x = _inverted(graph, x, factor, channels, stride if block == 0 else 1)
    x = graph.relu6(_normalised(graph, x, 1280, 1))
    return graph.classify(graph.mean(x))


def _inverted(graph: LayerGraph, x: Tensor, factor: int, channels: int, stride: int) -> Tensor:
    """Add an expansion, a depthwise 3×3 layer and a linear 1×1 layer."""
    past, wide = x, factor * x.shape[0]
    if factor > 1:
        x = graph.relu6(_normalised(graph, x, wide, 1))
    depthwise = graph.convolution(x, wide, 3, stride=stride, groups=wide, bias=False)
    x = graph.relu6(graph.batch_norm(depthwise))
    x = graph.convolution(x, channels, 1, bias=False, gain=LINEAR)
    if past.shape != x.shape:
        return graph.batch_norm(x)
    return graph.add(graph.batch_norm(x, _ADDED), past)
