"""`edge power watch`: the power of each rail, live."""

from __future__ import annotations

import argparse
import contextlib

from edge.core.errors import ConfigError

HELP = "show the power of each rail, live"
_SHORTEST_S, _LONGEST_S = 0.1, 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    interval = "averaging interval in seconds (default: 1)"
    parser.add_argument("--interval", type=float, default=1.0, help=interval)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long (default: 0, until Ctrl-C)")


def run(options: argparse.Namespace) -> int:
    """Print each interval's mean power; raise EdgeError without a sensor."""
    if not _SHORTEST_S <= options.interval <= _LONGEST_S:
        raise ConfigError(f"--interval: found {options.interval:g}, wanted {_SHORTEST_S:g} to {_LONGEST_S:g} seconds")
    if options.seconds < 0:
        raise ConfigError(f"--seconds: found {options.seconds:g}, wanted 0 (until Ctrl-C) or more")
    from edge.cli.power.rails import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(options.interval, options.seconds, as_json=options.json)
    return 0
