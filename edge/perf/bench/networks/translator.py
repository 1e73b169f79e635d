"""Recurrent translator: LSTM encoder and decoder with attention, in OpenNMT's former default sizes.

It does the work of translating one sentence of 20 words into 20 words. Its input is word vectors, since looking words
up needs no arithmetic. The decoder reads the encoder's outputs instead of its own previous word: untrained weights
choose no meaningful words, and so every run does the same work.
"""

from __future__ import annotations

import numpy as np

from edge.perf.bench.networks.layer_graph import LINEAR, LayerGraph, Tensor

_WORDS = 20
_SIZE = 500  # of a word vector, and units of a layer
_LAYERS = 2
_VOCABULARY = 50_000
_GATES = 4


def translator() -> LayerGraph:
    """Build the translator; a sentence is a grey image of one row per word, so that a pipeline can carry it.

    The output is the probability of each word of the vocabulary at its likeliest position.
    """
    graph = LayerGraph(Tensor("sentences", (1, _WORDS, _SIZE)))
    rows = graph.node("Squeeze", [graph.input.name, graph.constant(np.array([1], np.int64))], (_WORDS, _SIZE))
    x = graph.node("Transpose", [rows.name], rows.shape, perm=(1, 0, 2))  # steps first: T×N×size
    states = []
    for _ in range(_LAYERS):
        x, state = _recurrent(graph, x, [])
        states.append(state)
    source = x
    for state in states:
        x, _ = _recurrent(graph, x, state)
    x = _attend(graph, x, source)
    x = _linear(graph, x, _VOCABULARY)
    best = graph.node("ReduceMax", [x.name], (_VOCABULARY,), axes=(1,), keepdims=0)
    graph.output = graph.softmax(best)
    return graph


def _recurrent(graph: LayerGraph, x: Tensor, state: list[str]) -> tuple[Tensor, list[str]]:
    """Add an LSTM layer with this initial state; return its output at each step, and its last state."""
    std = _SIZE**-0.5
    weights = [graph.weight((1, _GATES * _SIZE, _SIZE), std) for _ in ("of the input", "of the last step")]
    bias = graph.weight((1, 2 * _GATES * _SIZE), std)
    graph.multiplications += _WORDS * 2 * _GATES * _SIZE**2
    # An empty name omits an input: here the lengths, since all sentences are equally long.
    inputs = [x.name, *weights, bias, *(["", *state] if state else [])]
    steps, *last = graph.nodes_out("LSTM", inputs, 3, {"hidden_size": _SIZE})
    return graph.node("Squeeze", [steps, graph.constant(np.array([1], np.int64))], x.shape), last


def _attend(graph: LayerGraph, x: Tensor, source: Tensor) -> Tensor:
    """Add attention to the source (Luong et al. 2015, "general"); return N×T×size."""
    own = graph.node("Transpose", [x.name], x.shape, perm=(1, 0, 2))
    queries = _product(graph, own, _SIZE)
    keys = graph.node("Transpose", [source.name], (_SIZE, _WORDS), perm=(1, 2, 0))
    values = graph.node("Transpose", [source.name], source.shape, perm=(1, 0, 2))
    match = graph.node("MatMul", [queries.name, keys.name], (_WORDS, _WORDS))
    weights = graph.softmax(match)
    context = graph.node("MatMul", [weights.name, values.name], values.shape)
    both = graph.node("Concat", [context.name, own.name], (_WORDS, 2 * _SIZE), axis=2)
    mixed = _product(graph, both, _SIZE)
    return graph.node("Tanh", [mixed.name], mixed.shape)


def _linear(graph: LayerGraph, x: Tensor, outputs: int) -> Tensor:
    product = _product(graph, x, outputs)
    return graph.node("Add", [product.name, graph.weight((outputs,), 0.1)], product.shape)


def _product(graph: LayerGraph, x: Tensor, outputs: int) -> Tensor:
    """Add a product of each step's row and a matrix."""
    within = x.shape[-1]
    matrix = graph.weight((within, outputs), (LINEAR / within) ** 0.5)
    graph.multiplications += _WORDS * within * outputs
    return graph.node("MatMul", [x.name, matrix], (_WORDS, outputs))
