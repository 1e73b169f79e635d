"""`edge engines build`: a model's TensorRT plan for this machine, built or found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from edge.cli.arguments import add_engine_arguments

HELP = "build a model's TensorRT engine for this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_engine_arguments(parser)
    elsewhere = "build for any GPU, on a machine without one, to be copied; needs TensorRT-RTX (default: this GPU)"
    parser.add_argument("--for", choices=("any",), dest="target", help=elsewhere)


def run(options: argparse.Namespace) -> int:
    """Build the plan unless it is stored already, and print where it is."""
    from rich.progress import TaskProgressColumn

    from edge.core.config import EnginesSettings
    from edge.core.manifest import find_model, model_file, read_manifest
    from edge.core.progress import phase_bar
    from edge.core.state_dir import find_state_dir
    from edge.host.board import board_name
    from edge.inference.backends.input_tensors import open_sizes_set
    from edge.inference.engine_provider import build_settings
    from edge.inference.plan_build import PlanRequest, build, target_gpu

    folder = find_model(options.model)
    manifest = read_manifest(folder)
    onnx = model_file(folder, manifest)
    gpu = target_gpu(options.target)
    plan = (options.precision, options.device, options.max_batch)
    settings = build_settings(*plan, EnginesSettings(), gpu, open_sizes_set(onnx, manifest.input))
    state_dir = find_state_dir(options.state_dir)
    request = PlanRequest(onnx, options.precision, settings, gpu, board_name(), state_dir)
    with phase_bar(f"{onnx.stem} {options.precision}", TaskProgressColumn()) as draw:
        result = build(request, lambda phase, fraction: draw(phase, fraction, 1.0))
    if options.json:
        print(json.dumps(result))
    else:
        _print(result)
    return 0


def _print(result: Mapping[str, Any]) -> None:
    from edge.inference.backends.tensorrt.build_protocol import MB

    key, built = result["key"], result["built"]
    print(f"{'built' if result['built_now'] else 'found, built earlier'}: {result['plan']}")
    print(
        f"{result['size'] / MB:.1f} MB, {built['layers']} network layers, built in {built['build_s']:.1f} s with "
        f"{key['library']} {key['version']} ({', '.join(built['flags'])})"
    )
    target = f"{key['gpu']}, compute capability {key['compute_capability']}" if key["gpu"] else "no particular GPU"
    print(f"for {target}, on {key['board']}")
    if not key["gpu"]:
        print("built by TensorRT-RTX for any GPU that it supports; this machine does not serve it")
    if placement := built["placement"]:
        print(
            f"{placement['dla']} layers on the DLA, {len(placement['gpu'])} on the GPU: {', '.join(placement['gpu'])}"
        )
