"""`edge demo`: the built-in scene and model with an embedded broker, and a table that subscribes to it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from edge.cli.arguments import seconds
from edge.core.errors import ConfigError
from edge.core.installation import install_advice

HELP = "run the built-in scene and model with an embedded broker; nothing to configure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--seconds", type=seconds, default=20.0, metavar="S", help="how long to run (default: 20)")


def run(options: argparse.Namespace) -> int:
    """Show the runtime at work for some seconds; return the exit code."""
    import asyncio
    import tempfile

    try:
        import amqtt  # noqa: F401 -- the embedded broker is an extra
    except ImportError:
        raise ConfigError(f"the embedded broker, amqtt, is not installed; {install_advice()}") from None
    from edge.cli.demo_session import show_demo

    logging.disable(logging.CRITICAL)  # the embedded broker's log is not for users
    with tempfile.TemporaryDirectory(prefix="edge-demo-") as folder:
        return asyncio.run(show_demo(options.seconds, Path(folder), as_json=options.json))
