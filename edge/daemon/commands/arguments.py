"""Parsing and validation of a command's body; pure."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import Field

from edge.core.config import CommandName, Name
from edge.core.errors import EdgeError
from edge.core.validation import Table, as_table

MOST_BYTES = 65_536
MOST_LEVELS = 16
_LARGEST_ID = 2**53 - 1  # whole numbers that every JSON reader keeps exactly

CommandId = Annotated[str, Field(pattern=r"^[ -~]{1,64}$")] | Annotated[int, Field(ge=-_LARGEST_ID, le=_LARGEST_ID)]
Level = Literal["debug", "info", "warning", "error"]


class CommandError(EdgeError):
    """A command is refused, for the reason in the message."""


class NoArgs(Table):
    """Arguments of commands that take none."""


class PowerModeArgs(Table):
    mode: str = Field(min_length=1, max_length=64)


class StreamArgs(Table):
    stream: Name


class StreamAddArgs(Table):
    stream: Name
    settings: dict[str, Any]  # as under [streams.NAME] of the configuration


class LogLevelArgs(Table):
    level: Level


ARGS: dict[CommandName, type[Table]] = {
    "power_mode": PowerModeArgs,
    "reload": NoArgs,
    "stream_on": StreamArgs,
    "stream_off": StreamArgs,
    "stream_add": StreamAddArgs,
    "stream_remove": StreamArgs,
    "snapshot": StreamArgs,
    "log_level": LogLevelArgs,
    "restart": NoArgs,
}


class Envelope(Table):
    """Fields of every command's body."""

    id: CommandId | None = None
    args: dict[str, Any] = Field(default_factory=dict)


def read_object(body: bytes) -> dict[str, Any]:
    """Parse a command's body, an empty one as {}; raise CommandError if it is not a JSON object."""
    if len(body) > MOST_BYTES:
        raise CommandError(f"the body is larger than {MOST_BYTES} bytes; send less")
    try:
        values = json.loads(
            body.decode() or "{}",
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_number,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise CommandError(f"the body is not UTF-8 text (byte {error.start}); wanted a JSON object") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise CommandError(f"the body is not JSON ({str(error)[:200]}); wanted a JSON object") from None
    if not isinstance(values, dict):
        raise CommandError(f"found JSON of type {type(values).__name__}, wanted an object with id and args")
    if _is_deeper(values, MOST_LEVELS):
        raise CommandError(f"the body is nested deeper than {MOST_LEVELS} levels; send plain args")
    return values


def id_of(values: dict[str, Any]) -> str | int | None:
    """Return the id if it is valid, so that a refusal can be matched to its command too."""
    try:
        return as_table({"id": values.get("id")}, Envelope, CommandError, "").id
    except CommandError:
        return None


def checked_args(name: CommandName, values: dict[str, Any]) -> Any:
    """Return the validated arguments; raise CommandError, in one sentence, if they are invalid."""
    envelope = as_table(values, Envelope, CommandError, f"command {name}")
    return as_table(envelope.args, ARGS[name], CommandError, f"args of command {name}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a duplicate key: choosing one of its values would be a guess."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text:.20} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether a value is nested deeper than so many levels, without recursion."""
    row = [value]
    for _ in range(levels):
        row = [
            inner
            for each in row
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
    return bool(row)
