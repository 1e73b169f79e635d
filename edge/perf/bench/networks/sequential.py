"""Sequential networks: AlexNet and VGG-19."""

from __future__ import annotations

from edge.perf.bench.networks.layer_graph import RECTIFIED, LayerGraph, Tensor, image_graph

# Channels and number of the 3×3 layers of each stage (Simonyan and Zisserman 2014, table 1, column E).
_VGG_19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


def alexnet() -> LayerGraph:
    """Build AlexNet (Krizhevsky et al. 2012), with its two halves as groups and normalisation before pooling."""
    graph = image_graph(227)
    x = graph.relu(graph.convolution(graph.input, 96, 11, stride=4, pad=0))
    x = graph.max_pool(graph.response_norm(x), 3, 2)
    x = graph.relu(graph.convolution(x, 256, 5, groups=2))
    x = graph.max_pool(graph.response_norm(x), 3, 2)
    for channels, groups in ((384, 1), (384, 2), (256, 2)):
        x = graph.relu(graph.convolution(x, channels, 3, groups=groups))
    return _head(graph, graph.max_pool(x, 3, 2))


def vgg_19() -> LayerGraph:
    """Build VGG-19: 16 convolutions of 3×3 and 3 dense layers."""
    graph = image_graph(224)
    x = graph.input
    for channels, layers in _VGG_19:
        for _ in range(layers):
            x = graph.relu(graph.convolution(x, channels, 3))
        x = graph.max_pool(x, 2, 2)
    return _head(graph, x)


def _head(graph: LayerGraph, x: Tensor) -> LayerGraph:
    """Add two layers of 4096 and the classifier; dropout does nothing at inference."""
    x = graph.flatten(x)
    for _ in range(2):
        x = graph.relu(graph.dense(x, 4096, RECTIFIED))
    return graph.classify(x)
