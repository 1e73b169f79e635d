"""Types and declarations of arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from edge.core.errors import ConfigError

MODEL_HELP = "folder with a model.toml, or a name under engines/"
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_BATCH = 1024  # as in the configuration
_LONGEST_S = 86_400  # a day


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name one engine of a model."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="default: fp16")
    parser.add_argument("--max-batch", type=int, default=4, help="largest batch (default: 4)")
    parser.add_argument("--device", choices=("gpu", "dla0", "dla1"), default="gpu", help="default: gpu")


def check_max_batch(max_batch: int) -> None:
    """Raise ConfigError for a batch that no engine takes."""
    if not 1 <= max_batch <= LARGEST_BATCH:
        raise ConfigError(f"--max-batch: found {max_batch}, wanted 1 to {LARGEST_BATCH}")


def names(*known: str) -> Callable[[str], tuple[str, ...]]:
    """Return a type of comma-separated names; of `known` ones, where any are given, in upper or lower case."""

    def parse(text: str) -> tuple[str, ...]:
        parts = (part.strip() for part in text.split(","))
        found = tuple(dict.fromkeys(part.casefold() if known else part for part in parts))
        if "" in found or (known and not set(found) <= set(known)):
            raise argparse.ArgumentTypeError(
                f"found {text!r}, wanted {', '.join(known) or 'names'} separated by commas"
            )
        return found

    return parse


def counts(largest: int) -> Callable[[str], tuple[int, ...]]:
    """Return a type of comma-separated whole numbers from 1."""

    def parse(text: str) -> tuple[int, ...]:
        parts = text.split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= largest for part in parts):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted numbers from 1 to {largest} separated by commas")
        return tuple(sorted({int(part) for part in parts}))

    return parse


def count(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number from 1")
    return int(text)


def positive(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a number above 0")
    return number


def seconds(text: str) -> float:
    """Parse a duration of 1 s up to a day."""
    duration_s = float(text)
    if not 1 <= duration_s <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"found {text}, wanted 1 to {_LONGEST_S} seconds")
    return duration_s
