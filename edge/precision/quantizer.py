"""Quantization of a model to INT8: calibration, layer search, and variants for TensorRT and ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.manifest import model_file
from edge.core.process import usable_cores
from edge.core.records import Image
from edge.inference.backends.input_tensors import Feed
from edge.inference.derived_files import derived_folder, source_sha256, write_variant
from edge.inference.predictor import Predictor
from edge.precision.calibration import AUTO, TRIED, Calibration, QuantizationParameters, best_parameters
from edge.precision.calibration_frames import store_frames, stored_folder
from edge.precision.frames import FrameSelection
from edge.precision.layer_search import Evaluate, Layers, LayerSearch, LayerSelection, Score, ScoreStore
from edge.precision.qdq import ORIGIN_KEY, Placement, insert_qdq, library, naive_quantization, serialize
from edge.precision.quantizable_graph import layers_of, prepare
from edge.precision.scorer import QuantizationScorer
from edge.precision.search_plot import plot

log = logging.getLogger(__name__)

_RULES = 1  # incremented when the same layers are quantized differently, so that older scores are not used
# On unseen frames a model's agreement is about its similarity on the frames of the search, and lower than its agreement
# on those: so the similarity must exceed the tolerance by this fraction of its distance to 1.
_MARGIN = 0.35
_NAIVE_FRAMES = 16  # that tool keeps all of them, with their tensors, in memory
_FEW_FRAMES = 24
# placement → kind in the files' names: NAME.int8.onnx, NAME.int8-cpu.onnx
PLACEMENTS: dict[Placement, str] = {"tensorrt": "int8", "cpu": "int8-cpu"}

ProgressCallback = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True)
class QuantizeRequest:
    """Options of a quantization."""

    method: str
    tolerance: float
    state_dir: Path


def quantize(
    predictor: Predictor, selection: FrameSelection, request: QuantizeRequest, on_progress: ProgressCallback
) -> dict[str, Any]:
    """Write the INT8 variants of a model beside its ONNX file; return the report on them.

    A variant in which no layer can be quantized has no file.
    """
    onnx = model_file(predictor.folder, predictor.manifest)
    quantization = _Quantization(predictor, onnx, selection, request, on_progress)
    variants = quantization.variants()
    files = {
        placement: str(write_variant(data, onnx, request.state_dir, PLACEMENTS[placement], ORIGIN_KEY))
        for placement, data in variants.items()
        if quantization.selections[placement].layers
    }
    store_frames(stored_folder(onnx, request.state_dir), quantization.frames)
    report = quantization.report(variants) | {"files": dict.fromkeys(PLACEMENTS) | files}
    svg = plot(onnx.stem, quantization.selections, request.tolerance)
    report |= _write_report(derived_folder(onnx, request.state_dir), report, svg)
    quantization.remove_stores()
    return report


def _write_report(folder: Path, report: Mapping[str, Any], svg: str) -> dict[str, str]:
    """Write the report and the plot; return their paths."""
    paths = {"report": folder / "quantization.json", "plot": folder / "quantization.svg"}
    try:
        paths["report"].write_text(json.dumps(report, indent=1), encoding="utf-8")
        paths["plot"].write_text(svg, encoding="utf-8")
    except OSError as error:
        raise EdgeError(f"{error.filename} cannot be written ({error.strerror}); check the free space") from None
    return {name: str(path) for name, path in paths.items()}


class _Quantization:
    """Quantization of one model."""

    def __init__(
        self,
        predictor: Predictor,
        onnx: Path,
        selection: FrameSelection,
        request: QuantizeRequest,
        on_progress: ProgressCallback,
    ) -> None:
        """Read the frames and calibrate."""
        self._onnx, self._request, self._on_progress = onnx, request, on_progress
        self._source_sha256 = source_sha256(onnx)
        self._prepared = prepare(onnx)
        self._layers = layers_of(self._prepared)
        if not self._layers:
            raise ModelError(
                f"model {onnx} has no convolution or matrix product with constant weights: nothing to quantize"
            )
        self.frames = _frames(selection, on_progress)
        calibrating, held_back = hold_back(self.frames)
        self._predictor, self._calibrating = predictor, calibrating
        self._scorer = QuantizationScorer(predictor, self._prepared.SerializeToString(), held_back)
        self._calibration = Calibration(self._prepared, self._layers, self._inputs, usable_cores())
        self.selections: dict[Placement, LayerSelection] = {}
        self._stores: list[ScoreStore] = []

    def _inputs(self, phase: str) -> Iterator[Feed]:
        for number, feed in enumerate(self._predictor.inputs(self._calibrating)):
            self._on_progress(phase, number, len(self._calibrating))
            yield feed

    def variants(self) -> dict[Placement, bytes]:
        """Search for each placement; the sensitivity of layers is measured for one of them."""
        parameters, sensitivities, self._methods = self._parameters()
        variants: dict[Placement, bytes] = {}
        for placement in PLACEMENTS:
            selection = self._search(parameters, placement, "search").run(sensitivities)
            self.selections[placement] = selection
            variants[placement] = self._variant(parameters, placement, selection.layers)
        return variants

    def _parameters(self) -> tuple[QuantizationParameters, dict[str, float], dict[str, str]]:
        """Return the parameters, and each layer's sensitivity and method."""
        method = self._request.method
        tried = {name: self._calibration.parameters(name) for name in (TRIED if method == AUTO else (method,))}
        sensitivities = {
            name: self._search(parameters, "tensorrt", f"harms-{name}").measure_alone(name)
            for name, parameters in tried.items()
        }
        return best_parameters(self._layers, tried, sensitivities)

    def _search(self, parameters: QuantizationParameters, placement: Placement, name: str) -> LayerSearch:
        tolerance = self._request.tolerance
        aim = Score(tolerance, tolerance, tolerance + _MARGIN * (1 - tolerance))
        evaluate = self._caching(parameters, placement, name)
        return LayerSearch(self._calibration.fractions, evaluate, aim, self._on_progress)

    def _caching(self, parameters: QuantizationParameters, placement: Placement, name: str) -> Evaluate:
        facts = [_RULES, self._source_sha256, digest(self.frames), self._request.method, library()]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        path = derived_folder(self._onnx, self._request.state_dir) / f"{name}-{placement}.json"
        store = ScoreStore(path, key)
        self._stores.append(store)
        if store.count:
            log.warning("continuing an earlier search with %d stored measurements: %s", store.count, path)
        return store.caching(lambda layers: self._scorer.score(self._variant(parameters, placement, layers)))

    def _variant(self, parameters: QuantizationParameters, placement: Placement, layers: Layers) -> bytes:
        quantized = insert_qdq(self._prepared, layers, parameters.ranges, parameters.weights, placement)
        return serialize(quantized, self._source_sha256)

    def remove_stores(self) -> None:
        for store in self._stores:
            store.remove()

    def report(self, variants: Mapping[Placement, bytes]) -> dict[str, Any]:
        """Return the report on the variants, in JSON."""
        self._on_progress("timing", 0, 1)
        fp32 = self._prepared.SerializeToString()
        return {
            "model": str(self._onnx),
            "onnx_sha256": self._source_sha256,
            "method": self._request.method,
            "tolerance": self._request.tolerance,
            "frames": {
                "calibration": len(self._calibrating),
                "held_back": len(self.frames) - len(self._calibrating) or 1,
            },
            "found_by_fp32": self._scorer.found,
            "fp32": {"ms": round(self._scorer.run_ms(fp32), 2), "bytes": len(fp32)},
            "naive": self._naive(),
            "forms": {name: self._variant_report(self.selections[name], data) for name, data in variants.items()},
        }

    def _variant_report(self, selection: LayerSelection, data: bytes) -> dict[str, Any]:
        return {
            "f1": selection.score.exact,
            "agreement": selection.score.agreement,
            "likeness": selection.score.similarity,
            "int8_share": selection.fraction,
            "layers": len(selection.sensitivities),
            "kept": sum(each.kept for each in selection.sensitivities),
            "ms": round(self._scorer.run_ms(data), 2),
            "bytes": len(data),
            "table": [each.to_json() | {"method": self._methods[each.layer]} for each in selection.sensitivities],
            "curve": [each.to_json() for each in selection.curve],
        }

    def _naive(self) -> dict[str, Any]:
        """Return the score of ONNX Runtime's `quantize_static` with its defaults on the same frames."""
        self._on_progress("the naive recipe", 0, 1)
        data = naive_quantization(self._onnx, self._predictor.inputs(self._calibrating[:_NAIVE_FRAMES]))
        score = self._scorer.score(data)
        return {"f1": score.exact, "agreement": score.agreement, "ms": round(self._scorer.run_ms(data), 2)}


def _frames(selection: FrameSelection, on_progress: ProgressCallback) -> list[Image]:
    """Read the frames; raise ConfigError if they are unsuitable for calibration."""
    frames = []
    for number, frame in enumerate(selection.frames):
        on_progress("reading frames", number, selection.count)
        frames.append(frame.picture)
    if not frames:
        raise ConfigError(f"--calibration {selection.source} gave no frame; wanted images that can be decoded")
    if are_blank(frames):
        raise ConfigError(
            f"the {len(frames)} calibration frames of {selection.source} are blank: each has a single colour; wanted "
            "frames like those that the model will process"
        )
    if len(frames) < _FEW_FRAMES:
        log.warning("only %d calibration frames: ranges and agreement may differ on other frames", len(frames))
    return frames


def hold_back(frames: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """Return the frames for calibration, and every second one, held back for scoring; a single frame serves as both."""
    return list(frames[::2]), list(frames[1::2]) or list(frames)


def are_blank(frames: Sequence[Image]) -> bool:
    """Return whether every image has a single colour."""
    return all((frame == frame[:1, :1]).all() for frame in frames)


def digest(frames: Sequence[Image]) -> str:
    """Return the SHA-256 of the sizes and pixels of images."""
    found = hashlib.sha256()
    for frame in frames:
        found.update(repr(frame.shape).encode())
        found.update(frame.tobytes())
    return found.hexdigest()
