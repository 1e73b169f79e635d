"""The layers before and after fusion, told to people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.perf.bench.fusion import COUNTED, Counted, Fusion
from edge.perf.bench.tables import cell_text

_TITLES = {"onnx": "ONNX file", "parsed": "parsed network", "built": "engine"}
_WHY = {**_TITLES, "inspector": "not told by TensorRT"}


def show(fusion: Fusion, console: Console) -> None:
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
