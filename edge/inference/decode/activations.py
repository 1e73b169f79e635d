"""Activations that turn a model's raw scores into probabilities."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge.inference.decode.reading import Activation


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the softmax of the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast("NDArray[np.float32]", powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the sigmoid through tanh, which cannot overflow."""
    half = np.float32(0.5)
    return cast("NDArray[np.float32]", half + half * np.tanh(half * logits))


def activated(values: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Apply an activation."""
    if activation == "none":
        return values
    return softmax(values) if activation == "softmax" else sigmoid(values)


def logit(probability: float) -> float:
    """Return the raw score whose sigmoid is `probability`."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Convert to float32; values that are already are not copied."""
    return array.astype(np.float32, copy=False)
