"""`edge check`: everything that edge needs on this machine, examined and listed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "check what works here and what does not, and say what to do about it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    config = "also check the streams, models and broker of this configuration"
    parser.add_argument("config", type=Path, nargs="?", help=config)
    parser.add_argument("--config-only", action="store_true", help="check files only: no camera, broker or board")


def run(options: argparse.Namespace) -> int:
    """Print a line for each thing checked; return 1 where one does not work.

    Raises ConfigError or ModelError for a configuration that cannot be used.
    """
    from rich.text import Text

    from edge.cli.check_probes import probe
    from edge.core.console import output_console, print_table

    findings = probe(options.config, options.state_dir, config_only=options.config_only)
    if options.json:
        print(json.dumps([finding.to_json() for finding in findings]))
    else:
        marks = {True: Text("✓", "green"), False: Text("✗", "red"), None: Text("·")}
        rows = [(marks[finding.works], finding.thing, finding.text) for finding in findings]
        print_table(output_console(), ("", "thing", "found"), rows)
    return 0 if all(finding.works is not False for finding in findings) else 1
