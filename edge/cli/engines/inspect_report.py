"""Report on an engine: its tensors, its memory, and its layers before and after TensorRT's fusion.

Whatever this machine cannot provide is null, with its reason under `why`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from edge.core.console import output_console, print_table
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
    console = output_console()
    title = f"{report['model']}, {report['precision']}, {report['device']}, batches up to {report['max_batch']}"
    console.print(title, style="bold", soft_wrap=True)
    for part in (_tensor_table, _plan_table, _count_table, _network_table, _layer_table):
        part(console, report)
    for reason, names in _by_reason(report["why"]).items():
        console.print(Text(f"not available here: {', '.join(names)}: {reason}", "yellow"))


def _tensor_table(console: Console, report: Mapping[str, Any]) -> None:
    if report["tensors"] is not None:
        rows = [(each["name"], each["mode"], _shape_text(each["shape"]), each["dtype"]) for each in report["tensors"]]
        print_table(console, ("tensor", "", "shape", "type"), rows, title="Tensors")


def _plan_table(console: Console, report: Mapping[str, Any]) -> None:
    plan, header, memory_bytes = report["plan"], report["header"], report["device_memory_bytes"]
    if plan is None:
        return
    if "key" not in plan:
        _print_engine_file(console, plan, memory_bytes)
        return
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
    print_table(console, ("", ""), [row for row in rows.items() if row[1]], title="Plan")


def _print_engine_file(console: Console, plan: Mapping[str, Any], memory_bytes: int | None) -> None:
    rows = {
        "file": plan["path"],
        "size": f"{plan['size'] / MB:.1f} MB",
        "SHA-256": plan["sha256"],
        "built": f"with {plan['built_by']}",
        "for": f"compute capability {plan['compute_capability']}" if plan["compute_capability"] else "",
        "metadata": ", ".join(plan["metadata"]),
        "GPU memory": "" if memory_bytes is None else f"{memory_bytes / MB:.1f} MB of scratch memory per context",
    }
    print_table(console, ("", ""), [row for row in rows.items() if row[1]], title="Engine file")


def _count_table(console: Console, report: Mapping[str, Any]) -> None:
    """Print the number of layers before and after fusion."""
    rows = []
    if (nodes := report["onnx_nodes"]) is not None:
        rows.append(("ONNX nodes", str(nodes["count"]), "", "", ""))
    for title, key in (("before fusion", "network"), ("after fusion", "layers")):
        if (found := report[key]) is not None:
            counts = ", ".join(f"{number} {precision}" for precision, number in found["by_precision"].items())
            origins = "?" if found["origins"] is None else str(found["origins"])
            rows.append((title, str(found["count"]), str(found["reformats"]), origins, counts))
    if rows:
        print_table(console, ("", "layers", "reformats", "ONNX nodes in them", "by precision"), rows, title="Layers")


def _network_table(console: Console, report: Mapping[str, Any]) -> None:
    """Print the layers of the parsed network, where no plan provides any."""
    network = report["network"]
    if network is None or report["layers"] is not None:
        return
    listed = [found for found in network["layers"] if found["origins"]]
    rows = []
    for found in listed:
        output = found["outputs"][0] if found["outputs"] else {"shape": None}
        rows.append((found["kind"].lower(), found["precision"] or "?", _shape_text(output["shape"]), found["name"]))
    print_table(console, ("kind", "type", "output", "layer"), rows, title="Layers before fusion")
    if hidden := len(network["layers"]) - len(listed):
        console.print(f"and {hidden} more from no ONNX node: constants, shapes (--json lists all)", soft_wrap=True)


def _layer_table(console: Console, report: Mapping[str, Any]) -> None:
    layers = report["layers"]
    if layers is None:
        return
    rows = []
    for found in layers["layers"]:
        time_ms = "" if found["time_ms"] is None else f"{found['time_ms']:.3f}"
        cells = (time_ms, found["kind"] or "?", found["precision"] or "?", str(len(found["origins"]) or ""))
        rows.append((*cells, Text(found["name"], "dim" if found["is_reformat"] else ""), found["tactic"] or ""))
    print_table(console, ("ms", "kind", "type", "nodes", "layer", "tactic"), rows, title="Layers after fusion")


def _shape_text(shape: Iterable[int | None] | None) -> str:
    return "?" if shape is None else "×".join("?" if size in (None, -1) else str(size) for size in shape)


def _by_reason(why: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the titles of missing parts by reason."""
    gathered: dict[str, list[str]] = {}
    for name, reason in why.items():
        gathered.setdefault(reason, []).append(_TITLES[name])
    return gathered
