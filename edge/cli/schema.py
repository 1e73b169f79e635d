"""`edge schema`: the JSON Schema of a message."""

from __future__ import annotations

import argparse

HELP = "print the JSON Schema of a message"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    names = "result, telemetry, status, stream-status, alarm, governor, command, ack or counts"
    parser.add_argument("name", metavar="NAME", help=names)


def run(options: argparse.Namespace) -> int:
    """Print the schema as it is shipped."""
    from edge.mqtt import schemas

    print(schemas.read(options.name), end="")
    return 0
