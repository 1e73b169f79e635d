"""`edge engines inspect`: a model's tensors, its memory, and its layers before and after fusion."""

from __future__ import annotations

import argparse
import json

from edge.cli.arguments import add_engine_arguments

HELP = "show a model's tensors, and its layers before and after fusion"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_engine_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print everything known about a model's engine on this machine."""
    from edge.cli.engines.inspect_report import print_report, report_of
    from edge.core.manifest import find_model, model_file, read_manifest, served_file
    from edge.core.state_dir import find_state_dir
    from edge.host.board import board_name
    from edge.inference.inspected_model import InspectedModel

    folder = find_model(options.model)
    manifest = read_manifest(folder)
    onnx = model_file(folder, manifest) if manifest.onnx else served_file(folder, manifest)
    file = (served_file(folder, manifest), manifest.engine_sha256) if manifest.engine_sha256 else None
    state_dir = find_state_dir(options.state_dir)
    plan = (options.precision, options.max_batch, options.device)
    engine = InspectedModel(onnx, *plan, state_dir, board_name(), manifest.input, file)
    report = report_of(folder.resolve().name, engine)
    if options.json:
        print(json.dumps(report))
    else:
        print_report(report)
    return 0
