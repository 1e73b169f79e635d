"""Layer fusion: the layers of a network in its file, as parsed, and in the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.console import print_table
from edge.core.errors import ConfigError, EdgeError, EngineError
from edge.core.manifest import Manifest, model_file, read_manifest
from edge.host.board import board_name
from edge.inference.backends.cuda import find_gpu
from edge.inference.backends.ort import import_onnxruntime
from edge.inference.backends.ort_profile import profile_layers
from edge.inference.backends.tensorrt.layers import EngineLayer
from edge.inference.backends.tensorrt.library import library_name, load_tensorrt
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.fp16.convert import fp16_file
from edge.inference.inspected_model import InspectedModel, describe_layers
from edge.inference.model_variants import Precision, variant_file
from edge.perf.bench.networks import find
from edge.perf.bench.tables import cell_text
from edge.pipeline.served_model import make_provider

COUNTED = (
    "Layers counted: in the ONNX file, every node but constants; in the parsed network, every TensorRT layer but "
    "constants; in the engine, every kernel that computes. Kernels that only reformat a tensor are counted separately."
)
_CONSTANT = "CONSTANT"
_TITLES = {"onnx": "ONNX file", "parsed": "parsed network", "built": "engine"}
_WHY = {**_TITLES, "inspector": "TensorRT gave no layers"}
T = TypeVar("T")


@dataclass(frozen=True)
class CountedLayers:
    """Layers as counted by one source."""

    source: str  # library and tool
    layers: tuple[tuple[EngineLayer, float | None], ...]  # each with its time in ms; None: not measured
    constants: int = 0  # not among the layers

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "constants": self.constants, **describe_layers(self.layers)}


@dataclass(frozen=True)
class PublishedLayers:
    """Published numbers of layers of a network."""

    before: int
    after: int
    remark: str  # the reason that ours may differ


_FLATTEN = "The published layers before fusion do not include the Flatten of the ONNX file."
# From NVIDIA's slides on mixed precision. 670 = 155 × (convolution + normalisation + scale) + 151 ReLU + 50 sums +
# 2 pools + dense layer + softmax, as in Caffe.
PUBLISHED = {
    "VGG-19": PublishedLayers(43, 27, _FLATTEN),
    "Inception-v3": PublishedLayers(309, 113, _FLATTEN),
    "ResNet-152": PublishedLayers(
        670,
        159,
        f"Before fusion, a batch normalisation is two published layers but one ONNX node. {_FLATTEN}",
    ),
}


@dataclass(frozen=True)
class Fusion:
    """Layers of a network before and after fusion; `why` explains what is None, except `published`."""

    network: str
    precision: Precision
    operators: Mapping[str, int] | None  # of the FP32 ONNX file: how many nodes of each
    parsed: CountedLayers | None
    built: CountedLayers | None
    published: PublishedLayers | None
    why: Mapping[str, str]

    @property
    def onnx_layers(self) -> int | None:
        return None if self.operators is None else sum(self.operators.values())

    def to_json(self) -> dict[str, Any]:
        operators = self.operators
        return {
            "network": self.network,
            "precision": self.precision,
            "onnx": None if operators is None else {"count": self.onnx_layers, "by_operator": dict(operators)},
            "parsed": self.parsed.to_json() if self.parsed else None,
            "built": self.built.to_json() if self.built else None,
            "published": asdict(self.published) if self.published else None,
            "counted": COUNTED,
            "why": dict(self.why),
        }


def fusion(folder: Path, precision: Precision, state_dir: Path) -> Fusion:
    """Count the layers of the model in a folder; with a GPU, build its TensorRT plan for batch 1 if needed.

    Without a GPU, the engine's layers are those of one run of ONNX Runtime on the CPU, without times. Raises ModelError
    if the folder holds no model; anything else that fails is None.
    """
    manifest = read_manifest(folder)
    onnx = model_file(folder, manifest)
    inspected = InspectedModel(onnx, precision, 1, "gpu", state_dir, board_name(), manifest.input)
    if precision == "fp16":
        with contextlib.suppress(EdgeError):  # reported below, by each part that needs it
            fp16_file(onnx, state_dir, blocked=manifest.accuracy.fp16_blocked_ops)
    why: dict[str, str] = {}

    def ask(part: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except EdgeError as error:
            why[part] = str(error)
            return None

    operators = ask("onnx", lambda: inspected.onnx_facts.nodes)
    parsed = ask("parsed", lambda: _parsed(inspected))
    built = ask("inspector", lambda: _inspected(inspected, folder, manifest))
    if built is None:
        built = ask("built", lambda: _run_by_onnxruntime(inspected))
    network = _network_name(onnx)
    published = PUBLISHED.get(network or "")
    return Fusion(network or folder.resolve().name, precision, operators, parsed, built, published, why)


def _parsed(inspected: InspectedModel) -> CountedLayers:
    layers = inspected.network()
    kept = tuple((each, None) for each in layers if each.kind != _CONSTANT)
    return CountedLayers(f"{_tensorrt()}, parser", kept, len(layers) - len(kept))


def _inspected(inspected: InspectedModel, folder: Path, manifest: Manifest) -> CountedLayers:
    """Inspect the plan with TensorRT's engine inspector, building it if none is stored; this needs a GPU."""
    load_tensorrt()
    find_gpu()
    try:
        _ = inspected.plan
    except EngineError:
        _build(inspected, folder, manifest)
    return CountedLayers(f"{_tensorrt()}, engine inspector", tuple(inspected.layers()))


def _run_by_onnxruntime(inspected: InspectedModel) -> CountedLayers:
    onnx = variant_file(inspected.onnx, inspected.precision, "ort-cpu", inspected.state_dir)
    layers = profile_layers(onnx, inspected.state_dir / "bench", inspected.inputs)
    version = import_onnxruntime().__version__
    return CountedLayers(f"ONNX Runtime {version} on the CPU", tuple((each, None) for each in layers))


def _build(inspected: InspectedModel, folder: Path, manifest: Manifest) -> None:
    """Build the plan and store it."""
    settings = ModelSettings.model_validate({"path": str(folder.resolve()), "max_batch": inspected.max_batch})
    environment = EngineEnvironment(inspected.state_dir, inspected.board, EnginesSettings())
    make_provider(settings, manifest, environment, threads=1).open_or_build(inspected.precision).close()


def _tensorrt() -> str:
    trt = load_tensorrt()
    name = "TensorRT-RTX" if library_name(trt) == "tensorrt-rtx" else "TensorRT"
    return f"{name} {trt.__version__}"


def _network_name(onnx: Path) -> str | None:
    """Return the built-in network with the name of this file; None for another model."""
    try:
        return find(onnx.stem).name
    except ConfigError:
        return None


def show_fusion(fusion: Fusion, console: Console) -> None:
    """Print the counts beside the published ones, the layers of the engine, and what could not be determined."""
    _print_counts(fusion, console)
    console.print(Text(COUNTED))
    if fusion.published is not None:
        console.print(Text(fusion.published.remark))
    if fusion.built is not None:
        _print_layers(fusion.built, console)
    for part, reason in fusion.why.items():
        console.print(Text(f"{_WHY[part]}: {reason}", "yellow"))


def _print_counts(fusion: Fusion, console: Console) -> None:
    before, after = (str(fusion.published.before), str(fusion.published.after)) if fusion.published else ("", "")
    nodes = cell_text(fusion.onnx_layers)
    rows = [[_TITLES["onnx"], nodes, before, "", "nodes of the FP32 file", ""]]
    for part, counted, published in (("parsed", fusion.parsed, ""), ("built", fusion.built, after)):
        rows.append([_TITLES[part], *_count_cells(counted, published)])
    heads = ("", "layers", "published", "not counted", "source", "by precision")
    print_table(console, heads, rows, title=f"{fusion.network}, {fusion.precision}")


def _count_cells(counted: CountedLayers | None, published: str) -> list[str]:
    if counted is None:
        return [cell_text(None), published, "", "", ""]
    facts = counted.to_json()
    others = [f"{name}: {facts[name]}" for name in ("constants", "reformats") if facts[name]]
    precisions = [f"{number} {precision}" for precision, number in facts["by_precision"].items()]
    return [str(facts["count"]), published, ", ".join(others), counted.source, ", ".join(precisions)]


def _print_layers(built: CountedLayers, console: Console) -> None:
    rows = []
    for layer, time_ms in built.layers:
        time = cell_text(None) if time_ms is None else f"{time_ms:.3f}"
        name = Text(layer.name, "dim" if layer.is_reformat else "")
        rows.append((time, layer.kind or "?", layer.precision or "?", name))
    print_table(console, ("ms", "kind", "type", "layer"), rows, title="Layers of the engine")
