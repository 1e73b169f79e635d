"""`edge engines verify`: a model's INT8 or FP16 variant compared with FP32 on the same frames, on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge.cli.arguments import MODEL_HELP, whole
from edge.core.errors import ConfigError

HELP = "compare a model's INT8 or FP16 variant with FP32 on this machine"
NOT_ADMITTED = 4  # exit code
_MAX_FRAMES = 100_000
_FP32_ON_CPU = {"backend": "onnxruntime", "device": "cpu", "max_batch": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("model", help=MODEL_HELP)
    add(
        "--precision",
        choices=("int8", "fp16", "engine"),
        required=True,
        help="variant to verify; engine: an engine file",
    )
    add("--against", choices=("fp32", "fp16"), default="fp32", help="variant taken as the truth (default: fp32)")
    add("--frames", metavar="PATH|SOURCE", help="video, folder of pictures, or URL of a camera")
    add(
        "--count",
        type=whole(1, _MAX_FRAMES),
        metavar="N",
        help="number of frames (default: 64; with --truth, all labelled ones)",
    )
    add("--truth", type=Path, metavar="COCO.json|FOLDER", help="labels: adds mAP, or top-1 accuracy")
    add("--report", type=Path, metavar="OUT.html", help="write the figures, and the worst frames with their boxes")


def run(options: argparse.Namespace) -> int:
    """Verify the variant, record the measurement and print it; return 4 where it is not admitted."""
    _check(options)
    from edge.cli.engines.frame_source import select_frames
    from edge.cli.engines.verify_report import print_report
    from edge.core.config import EnginesSettings, ModelSettings
    from edge.core.manifest import find_model
    from edge.core.progress import tracked
    from edge.core.state_dir import find_state_dir
    from edge.host.board import board_name
    from edge.inference.engine_provider import EngineEnvironment
    from edge.pipeline.served_model import ServedModel
    from edge.precision.verification import VerifyRequest, check_fp16_ranges, verify
    from edge.precision.verification_report import page_of, write_report

    folder, state_dir = find_model(options.model), find_state_dir(options.state_dir)
    settings = ModelSettings.model_validate(_FP32_ON_CPU | {"path": str(folder)})
    model = ServedModel(options.model, settings, EngineEnvironment(state_dir, board_name(), EnginesSettings()))
    sources = (options.truth, options.frames, options.count, model.manifest.task, model.labels)
    if "fp16" in (options.precision, options.against):
        check_fp16_ranges(model.predictor, model.provider, select_frames(*sources).frames)
    request = VerifyRequest(folder, options.precision, options.against, options.truth is not None, state_dir)
    selection = select_frames(*sources)
    frames = tracked(selection.frames, selection.count, f"{folder.resolve().name} {options.precision}")
    result = verify(request, model.predictor, model.provider, frames)
    page = page_of(result)
    if options.report is not None:
        write_report(options.report, page)
    if options.json:
        print(json.dumps(result.to_json(), allow_nan=False))
    else:
        print_report(page, options.report)
    return NOT_ADMITTED if result.reason else 0


def _check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that contradict one another or cannot be met."""
    if options.precision == options.against:
        found = f"found {options.against}, as --precision"
        raise ConfigError(f"--against: {found}; wanted another variant to compare it with")
    if options.report is not None and not options.report.parent.is_dir():
        raise ConfigError(f"--report {options.report}: folder {options.report.parent} does not exist; make it first")
