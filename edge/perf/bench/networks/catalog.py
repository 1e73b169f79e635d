"""The published networks that are built in: their names, and what is known of each."""

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
    """A built-in network; its weights are drawn when it is written."""

    name: str  # as shown, one of NAMES
    input_shape: Shape  # of one image: channels, height, width; of one sequence: 1, words, numbers of a word
    unit: Unit  # what a row of a batch is
    parameters: int
    multiplications: int  # multiply-accumulates of one image or sequence


def find(name: str) -> Network:
    """Return the network of this name, upper or lower case, with or without hyphens; raise ConfigError for another."""
    found = {_plain(each): each for each in NAMES}.get(_plain(name))
    if found is None:
        raise ConfigError(f"network {name!r} is not built in{_guess(name)}; wanted one of {', '.join(NAMES)}")
    graph = graph_of(found)
    unit: Unit = "sequences" if found in _SEQUENCES else "images"
    return Network(found, graph.input.shape, unit, graph.parameters, graph.multiplications)


def graph_of(name: str) -> LayerGraph:
    """Return the layers of a network, of a name as it is shown."""
    return _BUILDERS[name]()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _guess(name: str) -> str:
    close = difflib.get_close_matches(_plain(name), [_plain(each) for each in NAMES], n=1)
    return f" (did you mean {next(each for each in NAMES if _plain(each) in close)}?)" if close else ""
