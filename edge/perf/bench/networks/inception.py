"""Inception-v3 and Inception-v4, without the heads used only in training.

A branch is a sequence of layers: (channels, kernel), with a third number, the stride, if it is 2, which implies no
padding. A kernel is a side, or height × width.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.perf.bench.networks.layer_graph import LayerGraph, Tensor, image_graph

Layer = tuple[int, int | tuple[int, int]] | tuple[int, int | tuple[int, int], int]
Branch = Sequence[Layer]

_ROW_3, _COLUMN_3 = (1, 3), (3, 1)
_ROW_7, _COLUMN_7 = (1, 7), (7, 1)


def inception_v3() -> LayerGraph:
    """Build Inception-v3 (Szegedy et al. 2015, table 1)."""
    graph = image_graph(299)
    x = _branch(graph, _unpadded(graph, graph.input, ((32, 3, 2), (32, 3))), [(64, 3)])
    x = graph.max_pool(x, 3, 2)
    x = graph.max_pool(_unpadded(graph, x, ((80, 1), (192, 3))), 3, 2)
    for pooled in (32, 64, 64):  # 35×35
        branches: list[Branch] = [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)]]
        x = _module(graph, x, branches, pooled)
    x = _reduction(graph, x, [[(384, 3, 2)], [(64, 1), (96, 3), (96, 3, 2)]])
    for width in (128, 160, 160, 192):  # 17×17
        across: Branch = [(width, 1), (width, _ROW_7), (192, _COLUMN_7)]
        twice: Branch = [(width, 1), (width, _COLUMN_7), (width, _ROW_7), (width, _COLUMN_7), (192, _ROW_7)]
        x = _module(graph, x, [[(192, 1)], across, twice], 192)
    sevens: Branch = [(192, 1), (192, _ROW_7), (192, _COLUMN_7), (192, 3, 2)]
    x = _reduction(graph, x, [[(192, 1), (320, 3, 2)], sevens])
    for _ in range(2):  # 8×8
        x = _forked(graph, x, 320, [[(384, 1)], [(448, 1), (384, 3)]], 384, 192)
    return graph.classify(graph.mean(x))


def inception_v4() -> LayerGraph:
    """Build Inception-v4 (Szegedy et al. 2016, figures 3 to 9)."""
    graph = image_graph(299)
    x = _stem_v4(graph)
    for _ in range(4):  # 35×35
        x = _module(graph, x, [[(96, 1)], [(64, 1), (96, 3)], [(64, 1), (96, 3), (96, 3)]], 96)
    x = _reduction(graph, x, [[(384, 3, 2)], [(192, 1), (224, 3), (256, 3, 2)]])
    across: Branch = [(192, 1), (224, _ROW_7), (256, _COLUMN_7)]
    twice: Branch = [(192, 1), (192, _COLUMN_7), (224, _ROW_7), (224, _COLUMN_7), (256, _ROW_7)]
    for _ in range(7):  # 17×17
        x = _module(graph, x, [[(384, 1)], across, twice], 128)
    sevens: Branch = [(256, 1), (256, _ROW_7), (320, _COLUMN_7), (320, 3, 2)]
    x = _reduction(graph, x, [[(192, 1), (192, 3, 2)], sevens])
    for _ in range(3):  # 8×8
        x = _forked(graph, x, 256, [[(384, 1)], [(384, 1), (448, _COLUMN_3), (512, _ROW_3)]], 256, 256)
    return graph.classify(graph.mean(x))


def _stem_v4(graph: LayerGraph) -> Tensor:
    x = _branch(graph, _unpadded(graph, graph.input, ((32, 3, 2), (32, 3))), [(64, 3)])
    x = graph.concatenate([graph.max_pool(x, 3, 2), _branch(graph, x, [(96, 3, 2)])])
    square = _unpadded(graph, _branch(graph, x, [(64, 1)]), [(96, 3)])
    crossed = _branch(graph, x, [(64, 1), (64, _COLUMN_7), (64, _ROW_7)])
    x = graph.concatenate([square, _unpadded(graph, crossed, [(96, 3)])])
    return graph.concatenate([_branch(graph, x, [(192, 3, 2)]), graph.max_pool(x, 3, 2)])


def _module(graph: LayerGraph, x: Tensor, branches: Sequence[Branch], pooled: int) -> Tensor:
    """Add branches that keep the size, and one of mean pooling."""
    ends = [_branch(graph, x, branch) for branch in branches]
    return graph.concatenate([*ends, _branch(graph, graph.mean_pool(x), [(pooled, 1)])])


def _reduction(graph: LayerGraph, x: Tensor, branches: Sequence[Branch]) -> Tensor:
    """Add branches that halve the size, and one of max pooling."""
    return graph.concatenate([*(_branch(graph, x, branch) for branch in branches), graph.max_pool(x, 3, 2)])


def _forked(graph: LayerGraph, x: Tensor, plain: int, trunks: Sequence[Branch], fork: int, pooled: int) -> Tensor:
    """Add a 1×1 branch, trunks that each fork into a row and a column kernel, and a branch of mean pooling."""
    ends = [_branch(graph, x, [(plain, 1)])]
    for trunk in trunks:
        grown = _branch(graph, x, trunk)
        ends += [_branch(graph, grown, [(fork, kernel)]) for kernel in (_ROW_3, _COLUMN_3)]
    return graph.concatenate([*ends, _branch(graph, graph.mean_pool(x), [(pooled, 1)])])


def _branch(graph: LayerGraph, x: Tensor, layers: Branch) -> Tensor:
    for channels, kernel, *stride in layers:
        x = _convolved(graph, x, channels, kernel, *stride)
    return x


def _unpadded(graph: LayerGraph, x: Tensor, layers: Branch) -> Tensor:
    for channels, kernel, *stride in layers:
        x = _convolved(graph, x, channels, kernel, *stride, pad=0)
    return x


def _convolved(
    graph: LayerGraph,
    x: Tensor,
    channels: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    *,
    pad: int | None = None,
) -> Tensor:
    pad = 0 if stride == 2 else pad  # noqa: PLR2004 -- layers that halve the size have no padding
    return graph.relu(graph.batch_norm(graph.convolution(x, channels, kernel, stride=stride, pad=pad, bias=False)))
