"""`edge outbox show`: the messages on disk, by destination."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "show what waits on disk, and what is held for another broker, prefix or device"
CONFIG_HELP = "the daemon's configuration"
NOTHING_HELD = "no messages are held in {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("config", type=Path, help=CONFIG_HELP)


def run(options: argparse.Namespace) -> int:
    """Print a line for each destination; raise ConfigError or EdgeError where that fails."""
    from edge.core.config import load_config
    from edge.core.quantity import counted
    from edge.core.state_dir import find_state_dir
    from edge.mqtt.outbox.backlog import read_backlog

    config = load_config(options.config)
    state_dir = find_state_dir(options.state_dir, config.device.state_dir)
    backlog = read_backlog(config, state_dir)
    if options.json:
        print(json.dumps([each.to_json() for each in backlog]))
        return 0
    for each in backlog:
        state = "held" if each.is_held else "to be sent"
        print(f"{counted(each.messages, 'message')} ({each.bytes / 1e6:.1f} MB) for {each.destination}: {state}")
    if not backlog:
        print(f"no messages on disk in {state_dir}")
    return 0
