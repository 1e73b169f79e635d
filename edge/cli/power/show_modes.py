"""`edge power show`: the board's power modes."""

from __future__ import annotations

import argparse
import json

HELP = "show the modes, their limits, and what max-q and max-p mean here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options: the common ones are all."""


def run(options: argparse.Namespace) -> int:
    """Print the modes, or that this board has none; raise PowerModeError where their file cannot be read."""
    from edge.cli.power.modes_report import NO_MODES, measured_here, print_report, report_of
    from edge.power.modes import read_modes

    modes = read_modes()
    report = report_of(modes, measured_here(options.state_dir))
    if options.json:
        print(json.dumps(report))
    elif modes is None:
        print(NO_MODES)
    else:
        print_report(modes, report)
    return 0
