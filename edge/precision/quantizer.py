"""A model on its way to INT8: calibrated, searched for what stands it, placed for TensorRT and for ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.manifest import model_file
from edge.core.process import usable_cores
from edge.core.records import Image
from edge.inference.derived_files import derived_folder, source_sha256, write_variant
from edge.inference.predictor import Predictor
from edge.precision.calibration import AUTO, TRIED, Calibration, QuantizationParameters, best_parameters
from edge.precision.calibration_frames import store_frames, stored_folder
from edge.precision.frames import FrameSelection
from edge.precision.layer_search import Evaluate, Layers, LayerSearch, LayerSelection, Score, ScoreStore
from edge.precision.qdq import ORIGIN_KEY, Placement, insert_qdq, library, naive_quantization, serialize
from edge.precision.quantizable_graph import layers_of, prepare
from edge.precision.scorer import QuantizationScorer, run_ms
from edge.precision.search_plot import plot

log = logging.getLogger(__name__)

_RULES = 1  # counts up when the same layers are quantized differently, so that older scores are not used
# On frames that the search has not seen, a model agrees about as well as it is alike on those that it has, and less
# than it agrees on them: so the similarity must exceed the tolerance by this fraction of its distance to 1.
_MARGIN = 0.35
_NAIVE_FRAMES = 16  # its tool keeps all of them, with their tensors, in memory
_FEW_FRAMES = 24
# placement → how the files are called: NAME.int8.onnx, NAME.int8-cpu.onnx
PLACEMENTS: dict[Placement, str] = {"tensorrt": "int8", "cpu": "int8-cpu"}

ProgressCallback = Callable[[str, int, int], None]  # phase, done, of how many


@dataclass(frozen=True)
class QuantizeRequest:
    """What is to be quantized, and how."""

    method: str
    tolerance: float
    state_dir: Path


def quantize(
    predictor: Predictor, chosen: FrameSelection, order: QuantizeRequest, told: ProgressCallback
) -> dict[str, Any]:
    """Make the INT8 forms of a model beside its ONNX file; return what they are worth.

    There is no file of a form in which no layer can be quantized.
    """
    onnx = model_file(predictor.folder, predictor.manifest)
    work = _Work(predictor, onnx, chosen, order, told)
    forms = work.forms()
    files = {
        placement: str(write_variant(data, onnx, order.state_dir, PLACEMENTS[placement], ORIGIN_KEY))
        for placement, data in forms.items()
        if work.choices[placement].layers
    }
    store_frames(stored_folder(onnx, order.state_dir), work.frames)
    report = work.report(forms) | {"files": dict.fromkeys(PLACEMENTS) | files}
    drawn = plot(onnx.stem, work.choices, order.tolerance)
    report |= _keep(derived_folder(onnx, order.state_dir), report, drawn)
    work.remove_stores()
    return report


def _keep(folder: Path, report: Mapping[str, Any], drawn: str) -> dict[str, str]:
    """Write the report and the plot, and return their places."""
    places = {"report": folder / "quantization.json", "plot": folder / "quantization.svg"}
    try:
        places["report"].write_text(json.dumps(report, indent=1), encoding="utf-8")
        places["plot"].write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise EdgeError(f"{error.filename} cannot be written ({error.strerror}); see the space left") from None
    return {name: str(place) for name, place in places.items()}


class _Work:
    """One model on its way to INT8."""

    def __init__(
        self, predictor: Predictor, onnx: Path, chosen: FrameSelection, order: QuantizeRequest, told: ProgressCallback
    ) -> None:
        """Read the frames and calibrate."""
        self._onnx, self._order, self._told = onnx, order, told
        self._source_sha256 = source_sha256(onnx)
        self._prepared = prepare(onnx)
        self._layers = layers_of(self._prepared)
        if not self._layers:
            raise ModelError(
                f"model {onnx} has no convolution or matrix product with constant weights: nothing to quantize"
            )
        self.frames = _frames(chosen, told)
        calibrating, held_back = hold_back(self.frames)
        self._predictor, self._calibrating = predictor, calibrating
        self._judge = QuantizationScorer(predictor, self._prepared.SerializeToString(), held_back)
        self._calibration = Calibration(self._prepared, self._layers, self._inputs, usable_cores())
        self.choices: dict[Placement, LayerSelection] = {}
        self._stores: list[ScoreStore] = []

    def _inputs(self, phase: str) -> Iterator[NDArray[Any]]:
        for number, rows in enumerate(self._predictor.inputs(self._calibrating)):
            self._told(phase, number, len(self._calibrating))
            yield rows

    def forms(self) -> dict[Placement, bytes]:
        """Search for each placement; the sensitivity of layers is measured for one of them."""
        parameters, sensitivities, self._methods = self._parameters()
        forms: dict[Placement, bytes] = {}
        for placement in PLACEMENTS:
            choice = self._search(parameters, placement, "search").run(sensitivities)
            self.choices[placement] = choice
            forms[placement] = self._form(parameters, placement, choice.layers)
        return forms

    def _parameters(self) -> tuple[QuantizationParameters, dict[str, float], dict[str, str]]:
        """Return the parameters, and each layer's sensitivity and method."""
        method = self._order.method
        tried = {name: self._calibration.parameters(name) for name in (TRIED if method == AUTO else (method,))}
        sensitivities = {
            name: self._search(parameters, "tensorrt", f"harms-{name}").measure_alone(name)
            for name, parameters in tried.items()
        }
        return best_parameters(self._layers, tried, sensitivities)

    def _search(self, parameters: QuantizationParameters, placement: Placement, name: str) -> LayerSearch:
        tolerance = self._order.tolerance
        aim = Score(tolerance, tolerance, tolerance + _MARGIN * (1 - tolerance))
        evaluate = self._caching(parameters, placement, name)
        return LayerSearch(self._calibration.fractions, evaluate, aim, self._told)

    def _caching(self, parameters: QuantizationParameters, placement: Placement, name: str) -> Evaluate:
        facts = [_RULES, self._source_sha256, digest(self.frames), self._order.method, library()]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        path = derived_folder(self._onnx, self._order.state_dir) / f"{name}-{placement}.json"
        store = ScoreStore(path, key)
        self._stores.append(store)
        if store.count:
            log.warning("continuing an earlier search with %d stored measurements: %s", store.count, path)
        return store.caching(lambda layers: self._judge.score(self._form(parameters, placement, layers)))

    def _form(self, parameters: QuantizationParameters, placement: Placement, layers: Layers) -> bytes:
        placed = insert_qdq(self._prepared, layers, parameters.ranges, parameters.weights, placement)
        return serialize(placed, self._source_sha256)

    def remove_stores(self) -> None:
        for store in self._stores:
            store.remove()

    def report(self, forms: Mapping[Placement, bytes]) -> dict[str, Any]:
        """Return what was found, for people and programs."""
        self._told("timing", 0, 1)
        fp32 = self._prepared.SerializeToString()
        return {
            "model": str(self._onnx),
            "onnx_sha256": self._source_sha256,
            "method": self._order.method,
            "tolerance": self._order.tolerance,
            "frames": {
                "calibration": len(self._calibrating),
                "held_back": len(self.frames) - len(self._calibrating) or 1,
            },
            "found_by_fp32": self._judge.found,
            "fp32": {"ms": round(run_ms(fp32), 2), "bytes": len(fp32)},
            "naive": self._naive(),
            "forms": {name: self._told_of(self.choices[name], data) for name, data in forms.items()},
        }

    def _told_of(self, choice: LayerSelection, data: bytes) -> dict[str, Any]:
        return {
            "f1": choice.score.exact,
            "agreement": choice.score.agreement,
            "likeness": choice.score.similarity,
            "int8_share": choice.fraction,
            "layers": len(choice.sensitivities),
            "kept": sum(each.kept for each in choice.sensitivities),
            "ms": round(run_ms(data), 2),
            "bytes": len(data),
            "table": [each.to_json() | {"method": self._methods[each.layer]} for each in choice.sensitivities],
            "curve": [each.to_json() for each in choice.curve],
        }

    def _naive(self) -> dict[str, Any]:
        """Return what ONNX Runtime's `quantize_static` with its defaults is worth on the same frames."""
        self._told("the naive recipe", 0, 1)
        data = naive_quantization(self._onnx, self._predictor.inputs(self._calibrating[:_NAIVE_FRAMES]))
        score = self._judge.score(data)
        return {"f1": score.exact, "agreement": score.agreement, "ms": round(run_ms(data), 2)}


def _frames(chosen: FrameSelection, told: ProgressCallback) -> list[Image]:
    """Read the frames; raise ConfigError where they cannot calibrate anything."""
    frames = []
    for number, frame in enumerate(chosen.frames):
        told("reading frames", number, chosen.count)
        frames.append(frame.picture)
    if not frames:
        raise ConfigError(f"--calibration {chosen.source} gave no frame; wanted pictures that can be decoded")
    if are_blank(frames):
        raise ConfigError(
            f"the {len(frames)} calibration frames of {chosen.source} show nothing: each is of one colour; wanted "
            "frames of what the model is to see"
        )
    if len(frames) < _FEW_FRAMES:
        log.warning("only %d calibration frames: the ranges, and the agreement, may not hold on others", len(frames))
    return frames


def hold_back(frames: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """Return the frames that ranges are taken from, and every second one, held back to judge by; one serves as both."""
    return list(frames[::2]), list(frames[1::2]) or list(frames)


def are_blank(frames: Sequence[Image]) -> bool:
    """Tell whether nothing is to be seen in any of the pictures: each is of one colour."""
    return all((frame == frame[:1, :1]).all() for frame in frames)


def digest(frames: Sequence[Image]) -> str:
    """Return the SHA-256 of pictures: of their sizes and pixels."""
    found = hashlib.sha256()
    for frame in frames:
        found.update(repr(frame.shape).encode())
        found.update(frame.tobytes())
    return found.hexdigest()
