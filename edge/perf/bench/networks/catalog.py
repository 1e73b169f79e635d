"""Catalogue of the built-in networks, with their shapes and sizes."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge.core.errors import ConfigError
from edge.perf.bench.networks.googlenet import googlenet
from edge.perf.bench.networks.inception import inception_v3, inception_v4
from edge.perf.bench.networks.layer_graph import LayerGraph, Shape
from edge.perf.bench.networks.residual import mobilenet_v2, resnet_50, resnet_152
from edge.perf.bench.networks.sequential import alexnet, vgg_19
from edge.perf.bench.networks.translator import translator

Unit = Literal["images", "sequences"]

_BUILDERS: dict[str, Callable[[], LayerGraph]] = {
    "AlexNet": alexnet,
    "GoogLeNet": googlenet,
    "ResNet-50": resnet_50,
    "VGG-19": vgg_19,
    "ResNet-152": resnet_152,
    "Inception-v3": inception_v3,
    "Inception-v4": inception_v4,
    "MobileNet-v2": mobilenet_v2,
    "LSTM": translator,
}
_SEQUENCES = frozenset({"LSTM"})

NAMES = tuple(_BUILDERS)


@dataclass(frozen=True)
class Network:
    """Built-in network; its weights are drawn when it is written."""

    name: str  # one of NAMES
    input_shape: Shape  # image: channels, height, width; sequence: 1, words, size of a word vector
    unit: Unit  # one row of a batch
    parameters: int
    multiplications: int  # multiply-accumulates per image or sequence


def find(name: str) -> Network:
    """Find a network by name, ignoring case and hyphens; raise ConfigError if it is not built in."""
    found = {_plain(each): each for each in NAMES}.get(_plain(name))
    if found is None:
        raise ConfigError(f"network {name!r} is not built in{_guess(name)}; wanted one of {', '.join(NAMES)}")
    graph = graph_of(found)
    unit: Unit = "sequences" if found in _SEQUENCES else "images"
    return Network(found, graph.input.shape, unit, graph.parameters, graph.multiplications)


def graph_of(name: str) -> LayerGraph:
    """Build the layers of a network, given one of NAMES."""
    return _BUILDERS[name]()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _guess(name: str) -> str:
    close = difflib.get_close_matches(_plain(name), [_plain(each) for each in NAMES], n=1)
    return f" (did you mean {next(each for each in NAMES if _plain(each) in close)}?)" if close else ""
