"""`edge outbox discard`: the held messages are removed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge.cli.outbox.show_backlog import CONFIG_HELP, NOTHING_HELD

HELP = "remove what is held for another destination"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("config", type=Path, help=CONFIG_HELP)


def run(options: argparse.Namespace) -> int:
    """Remove the messages; raise ConfigError or EdgeError where that fails."""
    from edge.core.config import load_config
    from edge.core.quantity import counted
    from edge.core.state_dir import find_state_dir
    from edge.mqtt.outbox import backlog

    config = load_config(options.config)
    state_dir = find_state_dir(options.state_dir, config.device.state_dir)
    discarded = backlog.discard_held(config, state_dir)
    if options.json:
        print(json.dumps({"discarded": discarded}))
    else:
        print(f"{counted(discarded, 'message')} discarded" if discarded else NOTHING_HELD.format(state_dir))
    return 0
