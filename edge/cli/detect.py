"""`edge detect`: one model on one input, without a broker or a configuration."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.cli.arguments import MODEL_HELP, fraction, whole

HELP = "run a model on a picture, a video or a camera; prints a JSON line for each frame"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("input", help="picture, folder of pictures, video, or URL of a camera")
    parser.add_argument("--save", type=Path, metavar="OUT", help="write the annotated picture or video")
    parser.add_argument(
        "--frames",
        type=whole(0, least_means="all"),
        default=0,
        metavar="N",
        help="stop after N frames (default: 0, all)",
    )
    parser.add_argument("--score", type=fraction, metavar="0…1", help="minimum score (default: the model's)")


def run(options: argparse.Namespace) -> int:
    """Print one JSON line for each frame."""
    from edge.cli.detection import detect
    from edge.core.state_dir import find_state_dir

    detect(
        options.model,
        options.input,
        save=options.save,
        max_frames=options.frames,
        score=options.score,
        state_dir=find_state_dir(options.state_dir),
    )
    return 0
