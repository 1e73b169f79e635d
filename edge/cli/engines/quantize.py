"""`edge engines quantize`: a model's INT8 variants, with as many layers in INT8 as keep the agreement with FP32."""

from __future__ import annotations

import argparse
import json

from edge.cli.arguments import MODEL_HELP, fraction_above_0, whole
from edge.core.errors import ModelError
from edge.core.installation import install_advice

HELP = "make a model's INT8 variants, scored against FP32"
BELOW_TOLERANCE = 4  # exit code: no variant is within the tolerance
_METHODS = ("auto", "percentile", "entropy", "minmax", "mse")
_MAX_FRAMES = 512  # all are kept in memory
# INT8 is compared with FP32, and this machine need not be the one that serves.
_FP32_ON_CPU = {"max_batch": 1, "lanes": 1, "precision": "fp32", "backend": "onnxruntime", "device": "cpu"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("model", help=MODEL_HELP)
    source = "video, folder, picture or URL of a camera, with scenes like those the model will see"
    add("--calibration", required=True, metavar="PATH|SOURCE", help=source)
    add(
        "--frames",
        type=whole(1, _MAX_FRAMES),
        default=192,
        metavar="N",
        help="number of frames; half are held back for scoring (default: 192)",
    )
    add("--method", choices=_METHODS, default="auto", help="default: auto, for each tensor percentile or mse")
    add(
        "--tolerance",
        type=fraction_above_0,
        default=0.95,
        metavar="0…1",
        help="minimum F1 against FP32 (default: 0.95)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the INT8 variants and print their scores; return 4 where none is within the tolerance."""
    try:
        from edge.precision.quantizer import QuantizeRequest, quantize
    except ImportError as error:  # of onnx, which not every device has
        raise ModelError(
            f"model {options.model!r} cannot be quantized: the Python package {error.name!r} is not installed; "
            f"{install_advice()}"
        ) from None
    from rich.progress import MofNCompleteColumn

    from edge.cli.engines.frame_source import open_frames
    from edge.cli.engines.quantize_report import print_report
    from edge.core.config import ModelSettings
    from edge.core.manifest import find_model
    from edge.core.progress import phase_bar
    from edge.core.state_dir import find_state_dir
    from edge.pipeline.served_model import ServedModel

    settings = ModelSettings.model_validate(_FP32_ON_CPU | {"path": str(find_model(options.model))})
    model = ServedModel("quantized", settings)
    frames = open_frames(options.calibration, options.frames, "--calibration")
    request = QuantizeRequest(options.method, options.tolerance, find_state_dir(options.state_dir))
    with phase_bar(f"{settings.path.name} int8", MofNCompleteColumn()) as on_progress:
        report = quantize(model.predictor, frames, request, on_progress)
    if options.json:
        print(json.dumps(report))
    else:
        print_report(report)
    return 0 if any(report["files"].values()) else BELOW_TOLERANCE
