"""`edge power watch`: the power of each rail, live."""

from __future__ import annotations

import argparse
import contextlib

from edge.cli.arguments import number

HELP = "show the power of each rail, live"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    interval = "averaging interval in seconds (default: 1)"
    parser.add_argument("--interval", type=number(0.1, 3600, "seconds"), default=1.0, metavar="S", help=interval)
    length = number(0, None, "seconds", "until Ctrl-C")
    parser.add_argument("--seconds", type=length, default=0.0, metavar="S", help="how long (default: 0, until Ctrl-C)")


def run(options: argparse.Namespace) -> int:
    """Print each interval's mean power; raise EdgeError without a sensor."""
    from edge.cli.power.rails import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(options.interval, options.seconds, as_json=options.json)
    return 0
