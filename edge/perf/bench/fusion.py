"""`edge bench --fusion NETWORK`: how many layers a network has in its file, as it is parsed, and once it is fused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import ConfigError, EdgeError, EngineError
from edge.core.manifest import Manifest, model_file, read_manifest
from edge.host.board import board_name
from edge.inference.backends.cuda import find_gpu
from edge.inference.backends.ort import import_onnxruntime
from edge.inference.backends.ort_profile import layers_run
from edge.inference.backends.tensorrt.layers import EngineLayer
from edge.inference.backends.tensorrt.library import library_name, load_tensorrt
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.fp16.convert import fp16_file
from edge.inference.inspected_model import InspectedModel, described
from edge.inference.model_variants import Precision, variant_file
from edge.perf.bench.networks import find
from edge.perf.bench.tables import cell_text
from edge.pipeline.served_model import make_provider

COUNTED = (
    "A layer is, in the ONNX file, a node that is no constant; in the parsed network, a layer of TensorRT's that is no "
    "constant; in the engine, a kernel that computes: what only moves a tensor into another format or type is counted "
    "apart."
)
_CONSTANT = "CONSTANT"
_TITLES = {"onnx": "ONNX file", "parsed": "parsed network", "built": "engine"}
_WHY = {**_TITLES, "inspector": "not told by TensorRT"}
T = TypeVar("T")


@dataclass(frozen=True)
class Counted:
    """The layers that one source tells of."""

    source: str  # what told it
    layers: tuple[tuple[EngineLayer, float | None], ...]  # each with its milliseconds; None: not measured
    constants: int = 0  # beside them

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "constants": self.constants, **described(self.layers)}


@dataclass(frozen=True)
class Published:
    """Layers as they were published for a network."""

    before: int
    after: int
    remark: str  # why ours may differ


_FLATTEN = "The Flatten of the ONNX file is not among the published layers before fusion."
# Of NVIDIA's slides on mixed precision. 670 = 155 × (convolution + normalisation + scale) + 151 ReLU + 50 sums +
# 2 pools + dense layer + softmax, which is how Caffe has it.
PUBLISHED = {
    "VGG-19": Published(43, 27, _FLATTEN),
    "Inception-v3": Published(309, 113, _FLATTEN),
    "ResNet-152": Published(
        670, 159, f"A batch normalisation is two of the published layers before fusion, and one ONNX node. {_FLATTEN}"
    ),
}


@dataclass(frozen=True)
class Fusion:
    """A network's layers before and after fusion; what is None has its reason in `why`, but for `published`."""

    network: str
    precision: Precision
    operators: Mapping[str, int] | None  # of the FP32 ONNX file: how many nodes of each
    parsed: Counted | None
    built: Counted | None
    published: Published | None
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
    """Count the layers of the model in a folder, and build its TensorRT plan, for batch 1, where there is a GPU.

    Without a GPU the engine's layers are those that ONNX Runtime runs, once, on the CPU. Times are in milliseconds,
    and only those of a GPU. Raises ModelError where the folder holds no model; what else cannot be told is None.
    """
    manifest = read_manifest(folder)
    onnx = model_file(folder, manifest)
    inspected = InspectedModel(onnx, precision, 1, "gpu", state_dir, board_name())
    if precision == "fp16":
        with contextlib.suppress(EdgeError):  # told below, by each part that needs it
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


def _parsed(inspected: InspectedModel) -> Counted:
    layers = inspected.network()
    kept = tuple((each, None) for each in layers if each.kind != _CONSTANT)
    return Counted(f"{_tensorrt()}, parser", kept, len(layers) - len(kept))


def _inspected(inspected: InspectedModel, folder: Path, manifest: Manifest) -> Counted:
    """Ask TensorRT's inspector, of a plan that is built where none is kept; it needs a GPU."""
    load_tensorrt()
    find_gpu()
    try:
        _ = inspected.plan
    except EngineError:
        _build(inspected, folder, manifest)
    return Counted(f"{_tensorrt()}, engine inspector", tuple(inspected.layers()))


def _run_by_onnxruntime(inspected: InspectedModel) -> Counted:
    onnx = variant_file(inspected.onnx, inspected.precision, "ort-cpu", inspected.state_dir)
    layers = layers_run(onnx, inspected.state_dir / "bench")
    version = import_onnxruntime().__version__
    return Counted(f"ONNX Runtime {version} on the CPU", tuple((each, None) for each in layers))


def _build(inspected: InspectedModel, folder: Path, manifest: Manifest) -> None:
    """Have the plan built and kept."""
    settings = ModelSettings.model_validate({"path": str(folder.resolve()), "max_batch": inspected.max_batch})
    environment = EngineEnvironment(inspected.state_dir, inspected.board, EnginesSettings())
    make_provider(settings, manifest, environment, threads=1).open_or_build(inspected.precision).close()


def _tensorrt() -> str:
    trt = load_tensorrt()
    name = "TensorRT-RTX" if library_name(trt) == "tensorrt-rtx" else "TensorRT"
    return f"{name} {trt.__version__}"


def _network_name(onnx: Path) -> str | None:
    """Return which of the built-in networks it is, by the name of its file."""
    try:
        return find(onnx.stem).name
    except ConfigError:
        return None


def show_fusion(fusion: Fusion, console: Console) -> None:
    """Print the counts beside the published ones, the layers of the engine, and what could not be told."""
    console.print(_count_table(fusion))
    console.print(Text(COUNTED))
    if fusion.published is not None:
        console.print(Text(fusion.published.remark))
    if fusion.built is not None:
        console.print(_layer_table(fusion.built))
    for part, reason in fusion.why.items():
        console.print(Text(f"{_WHY[part]}: {reason}", "yellow"))


def _count_table(fusion: Fusion) -> Table:
    table = Table(title=f"{fusion.network}, {fusion.precision}", title_justify="left")
    table.add_column("")
    for column in ("layers", "published", "beside them"):
        table.add_column(column, justify="right" if column != "beside them" else "left")
    table.add_column("told by")
    table.add_column("by precision")
    before, after = (str(fusion.published.before), str(fusion.published.after)) if fusion.published else ("", "")
    nodes = cell_text(fusion.onnx_layers)
    table.add_row(_TITLES["onnx"], nodes, before, "", "nodes of the FP32 file", "")
    for part, counted, published in (("parsed", fusion.parsed, ""), ("built", fusion.built, after)):
        table.add_row(_TITLES[part], *_count_cells(counted, published))
    return table


def _count_cells(counted: Counted | None, published: str) -> list[str]:
    if counted is None:
        return [cell_text(None), published, "", "", ""]
    told = counted.to_json()
    beside = [f"{name}: {told[name]}" for name in ("constants", "reformats") if told[name]]
    precisions = [f"{number} {precision}" for precision, number in told["by_precision"].items()]
    return [str(told["count"]), published, ", ".join(beside), counted.source, ", ".join(precisions)]


def _layer_table(built: Counted) -> Table:
    table = Table(title="Layers of the engine", title_justify="left")
    table.add_column("layer", overflow="fold")
    for column in ("kind", "type", "ms"):
        table.add_column(column, no_wrap=True, justify="right" if column == "ms" else "left")
    for layer, time_ms in built.layers:
        time = cell_text(None) if time_ms is None else f"{time_ms:.3f}"
        name = Text(layer.name, "dim" if layer.is_reformat else "")
        table.add_row(name, layer.kind or "?", layer.precision or "?", time)
    return table
