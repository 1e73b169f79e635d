"""`edge outbox send`: the held messages go to the configured broker."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge.cli.outbox.show_backlog import CONFIG_HELP, NOTHING_HELD

HELP = "send what is held for another destination to the configured broker, with the original topics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("config", type=Path, help=CONFIG_HELP)


def run(options: argparse.Namespace) -> int:
    """Release the messages, which the daemon sends; raise ConfigError or EdgeError where that fails."""
    from edge.core.config import load_config
    from edge.core.quantity import counted
    from edge.core.state_dir import find_state_dir
    from edge.mqtt.outbox import backlog

    config = load_config(options.config)
    state_dir = find_state_dir(options.state_dir, config.device.state_dir)
    released = backlog.send_held(config, state_dir)
    if options.json:
        print(json.dumps({"released": released}))
    elif released:
        print(f"{counted(released, 'message')} released; the daemon sends on to {config.mqtt.shown}")
    else:
        print(NOTHING_HELD.format(state_dir))
    return 0
