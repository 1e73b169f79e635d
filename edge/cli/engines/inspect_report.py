"""Report on an engine: its tensors, its memory, and its layers before and after TensorRT's fusion.

Whatever this machine cannot provide is null, with its reason under `why`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.core.errors import EdgeError
from edge.inference.backends.tensorrt.build_protocol import MB
from edge.inference.inspected_model import InspectedModel, describe_layers

# Titles of what may be null, for people.
_TITLES = {
    "tensors": "tensors",
    "onnx_nodes": "ONNX nodes",
    "network": "layers before fusion",
    "plan": "plan",
    "header": "plan header",
    "device_memory_bytes": "GPU memory",
    "layers": "layers after fusion",
    "layer_times_ms": "time by layer",
}


def report_of(name: str, inspected: InspectedModel) -> dict[str, Any]:
    """Return everything that can be found out here; the rest is None, with its reason under `why`."""
    why: dict[str, str] = {}

    def attempt(part: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except EdgeError as error:
            why[part] = str(error)
            return None

    report = {
        "model": name,
        "onnx": str(inspected.onnx),
        "precision": inspected.precision,
        "device": inspected.device,
        "max_batch": inspected.max_batch,
        "tensors": attempt("tensors", lambda: [asdict(each) for each in inspected.tensors()]),
        "onnx_nodes": attempt("onnx_nodes", lambda: _counted(inspected.onnx_facts.nodes)),
        "network": attempt("network", lambda: describe_layers((layer, None) for layer in inspected.network())),
        "plan": attempt("plan", lambda: {"path": str(inspected.plan[0]), **inspected.plan[1]}),
        "header": attempt("header", inspected.header),
        "device_memory_bytes": attempt("device_memory_bytes", lambda: inspected.inspection.device_memory_bytes),
        "layers": attempt("layers", lambda: describe_layers(inspected.layers())),
        "layer_times_ms": attempt("layer_times_ms", inspected.layer_times_ms),
    }
    return report | {"why": why}


def _counted(nodes: Mapping[str, int]) -> dict[str, Any]:
    return {"count": sum(nodes.values()), "by_operator": dict(nodes)}


def print_report(report: Mapping[str, Any]) -> None:
    """Print the report as tables."""
    console = Console(highlight=False)
    console.print(
        f"{report['model']}, {report['precision']}, {report['device']}, batches up to {report['max_batch']}",
        style="bold",
    )
    for part in (_tensor_table, _plan_table, _count_table, _network_table, _layer_table):
        table = part(report)
        if table is not None:
            console.print(table)
    for reason, names in _by_reason(report["why"]).items():
        console.print(Text(f"not available here: {', '.join(names)}: {reason}", "yellow"))


def _tensor_table(report: Mapping[str, Any]) -> Table | None:
    if report["tensors"] is None:
        return None
    table = _table("Tensors", "tensor", "", "shape", "type")
    for each in report["tensors"]:
        table.add_row(Text(each["name"]), each["mode"], _shape_text(each["shape"]), each["dtype"])
    return table


def _plan_table(report: Mapping[str, Any]) -> Table | None:
    plan, header, memory_bytes = report["plan"], report["header"], report["device_memory_bytes"]
    if plan is None:
        return None
    table = _table("Plan", "", "")
    key = plan["key"]
    rows = {
        "file": plan["path"],
        "size": f"{plan['size'] / MB:.1f} MB",
        "built": f"{plan['built_at']} with {key['library']} {key['version']}, {', '.join(plan['built']['flags'])}",
        "for": f"{key['gpu'] or 'no particular GPU'}, on {key['board']}",
        "header": "" if header is None else f"{header['magic']} {header['version']}",
        "GPU memory": "" if memory_bytes is None else f"{memory_bytes / MB:.1f} MB of scratch memory per context",
    }
    if placement := plan["built"]["placement"]:
        rows["on the DLA"] = f"{placement['dla']} layers; on the GPU: {', '.join(placement['gpu']) or 'none'}"
    for title, text in rows.items():
        if text:
            table.add_row(title, Text(text, overflow="fold"))
    return table


def _count_table(report: Mapping[str, Any]) -> Table | None:
    """Return the number of layers before and after fusion."""
    table = _table("Layers", "", "layers", "reformats", "ONNX nodes in them", "by precision")
    if (nodes := report["onnx_nodes"]) is not None:
        table.add_row("ONNX nodes", str(nodes["count"]))
    for title, key in (("before fusion", "network"), ("after fusion", "layers")):
        if (found := report[key]) is not None:
            counts = ", ".join(f"{number} {precision}" for precision, number in found["by_precision"].items())
            origins = "?" if found["origins"] is None else str(found["origins"])
            table.add_row(title, str(found["count"]), str(found["reformats"]), origins, counts)
    return table if table.row_count else None


def _network_table(report: Mapping[str, Any]) -> Table | None:
    """Return the layers of the parsed network, where no plan provides any."""
    network = report["network"]
    if network is None or report["layers"] is not None:
        return None
    table = _table("Layers before fusion", "layer", "kind", "type", "output")
    listed = [found for found in network["layers"] if found["origins"]]
    for found in listed:
        output = found["outputs"][0] if found["outputs"] else {"shape": None}
        cells = [found["kind"].lower(), found["precision"] or "?", _shape_text(output["shape"])]
        table.add_row(Text(found["name"], overflow="fold"), *cells)
    if hidden := len(network["layers"]) - len(listed):
        table.caption = f"and {hidden} more from no ONNX node: constants, shapes (--json lists all)"
    return table


def _layer_table(report: Mapping[str, Any]) -> Table | None:
    layers = report["layers"]
    if layers is None:
        return None
    table = _table("Layers after fusion", "layer", "kind", "type", "nodes", "ms", "tactic")
    for found in layers["layers"]:
        time_ms = "" if found["time_ms"] is None else f"{found['time_ms']:.3f}"
        cells = [found["kind"] or "?", found["precision"] or "?", str(len(found["origins"]) or ""), time_ms]
        name = Text(found["name"], "dim" if found["is_reformat"] else "", overflow="fold")
        table.add_row(name, *cells, Text(found["tactic"] or "", overflow="fold"))
    return table


def _table(title: str, *columns: str) -> Table:
    """Make a table whose short columns are never wrapped."""
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        numeric = column in ("layers", "reformats", "ms", "nodes", "ONNX nodes in them")
        long = column in ("layer", "tensor", "tactic", "by precision", "ONNX nodes in them") or not any(columns)
        table.add_column(column, no_wrap=not long, justify="right" if numeric else "left")
    return table


def _shape_text(shape: Iterable[int | None] | None) -> str:
    return "?" if shape is None else "×".join("?" if size in (None, -1) else str(size) for size in shape)


def _by_reason(why: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the titles of missing parts by reason."""
    gathered: dict[str, list[str]] = {}
    for name, reason in why.items():
        gathered.setdefault(reason, []).append(_TITLES[name])
    return gathered
