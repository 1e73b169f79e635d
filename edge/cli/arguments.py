"""Types and declarations of arguments that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable

from edge.core.suggestion import did_you_mean

MODEL_HELP = "folder with a model.toml, or a name under engines/"
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_BATCH = 1024  # as in the configuration
_LONGEST_S = 86_400  # a day


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name one engine of a model."""
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="default: fp16")
    max_batch = whole(1, LARGEST_BATCH)
    parser.add_argument("--max-batch", type=max_batch, default=4, metavar="N", help="largest batch (default: 4)")
    parser.add_argument("--device", choices=("gpu", "dla0", "dla1"), default="gpu", help="default: gpu")


def names(*known: str) -> Callable[[str], tuple[str, ...]]:
    """Return a type of comma-separated names; of `known` ones, where any are given, in upper or lower case."""

    def parse(text: str) -> tuple[str, ...]:
        parts = (part.strip() for part in text.split(","))
        found = tuple(dict.fromkeys(part.casefold() if known else part for part in parts))
        if "" in found or (known and not set(found) <= set(known)):
            unknown = next((part for part in found if part not in known), "") if known else ""
            wanted = f"{', '.join(known) or 'names'} separated by commas{did_you_mean(unknown, known)}"
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted {wanted}")
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


def whole(least: int, most: int | None = None, least_means: str = "") -> Callable[[str], int]:
    """Return a type of whole numbers from `least` to `most` (None: no limit); `least_means` says what `least` does."""
    wanted = f"a whole number from {_limits(least, most, least_means)}"

    def parse(text: str) -> int:
        try:
            parsed = int(text)
        except ValueError:
            parsed = least - 1
        if parsed < least or (most is not None and parsed > most):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted {wanted}")
        return parsed

    return parse


def number(least: float, most: float | None, unit: str, least_means: str = "") -> Callable[[str], float]:
    """Return a type of numbers from `least` to `most` (None: no limit); `least_means` says what `least` does."""
    limits = _limits(least, most, least_means)
    wanted = f"{unit} from {limits}" if most is None else f"{limits} {unit}"

    def parse(text: str) -> float:
        parsed = _float(text)
        if not least <= parsed <= (sys.float_info.max if most is None else most):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted {wanted}")
        return parsed

    return parse


def _limits(least: float, most: float | None, least_means: str) -> str:
    meaning = f" ({least_means})" if least_means else ""
    return f"{least}{meaning}" if most is None else f"{least}{meaning} to {most}"


def fraction(text: str) -> float:
    """Parse a number from 0 to 1."""
    parsed = _float(text)
    if not 0 <= parsed <= 1:
        hint = f"; for {parsed:g} % give {parsed / 100:g}" if 1 < parsed <= 100 else ""  # noqa: PLR2004 -- per cent
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted 0 to 1{hint}")
    return parsed


def fraction_above_0(text: str) -> float:
    """Parse a number above 0, up to 1."""
    parsed = fraction(text)
    if not parsed:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted more than 0, up to 1")
    return parsed


def positive(text: str) -> float:
    """Parse a number above 0."""
    parsed = _float(text)
    if not 0 < parsed < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a number above 0")
    return parsed


def _float(text: str) -> float:
    """Return the number in a text, or not-a-number, which is within no limits."""
    try:
        return float(text)
    except ValueError:
        return math.nan


count = whole(1)
seconds = number(1, _LONGEST_S, "seconds")
