"""`edge run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from edge.core.process import use_one_heap

HELP = "run the daemon; it exits once every source has ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("config", type=Path, help="TOML file with the streams, the models and the broker")
    unproven = "serve INT8 without proof that it agrees with FP32 (raises an alarm)"
    parser.add_argument("--force", action="store_true", help=unproven)


def run(options: argparse.Namespace) -> int:
    """Run the daemon until it is stopped or every source has ended; return its exit code."""
    use_one_heap()  # before the imports, as libraries start threads
    from edge.cli.status_line import status_line
    from edge.daemon import daemon

    os.umask(0o077)  # as the unit has it: what the daemon writes is private
    with status_line() as show:
        code, summary = daemon.run(options.config, options.state_dir, force=options.force, on_status=show)
    if options.json:
        print(json.dumps(summary))
    return code
