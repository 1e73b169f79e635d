"""Reader of a classifier's output: the best classes, by probabilities or raw scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import ModelError
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.activations import activated
from edge.inference.decode.contract import NO_BOXES, Options, Outputs, Raw, best_first
from edge.inference.decode.guard import OutputGuard
from edge.inference.decode.placement import wrong_count, wrong_shape
from edge.inference.decode.reading import COMMON_KEYS, Activation, check_keys

_DEFAULT_TOP_K = 5
_ACTIVATIONS: tuple[Activation, ...] = ("none", "sigmoid", "softmax")
_KEYS = (*COMMON_KEYS, "top_k", "softmax", "activation")
# Tolerance for the sum of float16 probabilities.
_SUM_TOLERANCE = 0.01


class ClassReader:
    """Reads one output of C values into the `top_k` best classes (default 5), without boxes."""

    def __init__(self, settings: Mapping[str, Any], outputs: Sequence[TensorSpec], options: Options) -> None:
        """Take the keys of [output]; raise ModelError if they or the output do not fit."""
        _check_keys(settings)
        spec = _only(outputs, options)
        self._top_k: int = settings.get("top_k", _DEFAULT_TOP_K)
        classes = options["label_count"] or "C"
        self.is_single = len(spec.shape) == 1  # the output has no batch axis
        _require(spec, classes, options)
        self._is_quantized = spec.dtype.kind in "iu"
        self.activation: Activation | None = settings.get("activation")  # None: decided by values
        if settings.get("softmax") is not None:
            self.activation = "softmax" if settings["softmax"] else "none"
        elif self._is_quantized:
            self.activation = "none"

    def is_whole(self, output: str) -> bool:  # noqa: ARG002 -- the only one
        """Return whether the output has no batch axis."""
        return self.is_single

    def read(
        self,
        outputs: Outputs,
        threshold: float,  # noqa: ARG002 -- a class is reported whatever its score
        guard: OutputGuard | None = None,
    ) -> Raw:
        """Return no boxes, and the scores and numbers of the best classes."""
        (output,) = outputs.values()
        scores = self.probabilities(output, self.activation or decided([self.values(output)]))
        if guard is not None:
            guard.see_scores(scores)
        best = best_first(scores)[: self._top_k]
        return NO_BOXES, scores[best], best

    def decide(self, samples: Iterable[Outputs]) -> Activation:
        """Decide the activation once by the values for several pictures, unless a key says it; return it."""
        if self.activation is None:
            self.activation = decided([self.values(next(iter(each.values()))) for each in samples])
        return self.activation

    def values(self, output: NDArray[Any]) -> NDArray[np.float32]:
        """Return the raw values, those of quantized outputs as fractions."""
        values = output.ravel()
        if not self._is_quantized:
            return values.astype(np.float32)
        levels = np.iinfo(output.dtype)
        fractions: NDArray[np.float32] = (values.astype(np.float32) - levels.min) / np.float32(levels.max - levels.min)
        return fractions

    def probabilities(self, output: NDArray[Any], activation: Activation) -> NDArray[np.float32]:
        """Return the probability of each class."""
        return activated(self.values(output), activation)


def decided(values: Sequence[NDArray[np.float32]]) -> Activation:
    """Return the activation that is left to apply to values: none to probabilities, else softmax."""
    every = np.concatenate(values) if values else np.zeros(0, np.float32)
    is_fraction = bool(every.size) and every.min() >= 0 and every.max() <= 1 + _SUM_TOLERANCE
    if len(values) == 1:  # one picture of a classifier that nothing more is known of
        return "none" if (is_fraction and _adds_up(values[0])) or (every.size == 1 and is_fraction) else _raw(every)
    return "none" if is_fraction else _raw(values[0])


def _raw(values: NDArray[np.float32]) -> Activation:
    """Return the activation of raw scores: softmax of one value would always be 1."""
    return "sigmoid" if values.size == 1 else "softmax"


def _adds_up(scores: NDArray[np.float32]) -> bool:
    return bool(scores.min() >= 0) and abs(float(scores.sum()) - 1.0) < _SUM_TOLERANCE


def _check_keys(settings: Mapping[str, Any]) -> None:
    top_k, is_softmax, activation = settings.get("top_k", 1), settings.get("softmax"), settings.get("activation")
    if type(top_k) is not int or top_k < 1:
        raise ModelError(f"[output] top_k: found {top_k!r}, wanted a whole number, 1 or more")
    if is_softmax is not None and type(is_softmax) is not bool:
        raise ModelError(f"[output] softmax: found {is_softmax!r}, wanted true or false")
    if activation is not None and activation not in _ACTIVATIONS:
        wanted = ", ".join(map(repr, _ACTIVATIONS))
        raise ModelError(f"[output] activation: found {activation!r}, wanted one of {wanted}")
    check_keys(settings, _KEYS, "topk")


def _only(outputs: Sequence[TensorSpec], options: Options) -> TensorSpec:
    if len(outputs) != 1:
        raise wrong_count(outputs, 1, options)
    return outputs[0]


def _require(spec: TensorSpec, classes: int | str, options: Options) -> None:
    """Check the output's axes: the classes, and axes of one that pooling may have left."""
    found = spec.shape if len(spec.shape) == 1 else spec.shape[1:]
    is_known = bool(found) and (found[0] is None or isinstance(classes, str) or found[0] == classes)
    if not is_known or any(size not in (None, 1) for size in found[1:]):
        raise wrong_shape(spec, (classes, *[1] * (len(spec.shape) - 2)), options)
