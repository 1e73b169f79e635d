"""Validation of TOML files; an error names file, section, key, value found and value wanted in one sentence."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from edge.core.errors import EdgeError
from edge.core.suggestion import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SettingsT = TypeVar("SettingsT", bound=BaseModel)

_MAX_SHOWN = 80  # characters of a value or key
_MAX_PROBLEMS = 3  # in one error
_UNQUOTED = re.compile(r"[^'\"]+")


class Table(BaseModel):
    """Immutable table of a settings file; unknown keys are refused, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_settings(path: Path, table: type[SettingsT], error_type: type[EdgeError]) -> SettingsT:
    """Read and validate a TOML file; raise `error_type`, in one sentence, if it is not a valid `table`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise error_type(f"{path} cannot be read ({error.strerror}); wanted a readable TOML file") from None
    except UnicodeDecodeError as error:
        raise error_type(f"{path} is not UTF-8 text (byte {error.start}); wanted a TOML file") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise error_type(f"{path} is not valid TOML: {one_line(str(error))}; fix it there") from None
    return as_table(values, table, error_type, str(path), path.parent.resolve())


def as_table(
    values: Any, table: type[SettingsT], error_type: type[EdgeError], place: str, folder: Path | None = None
) -> SettingsT:
    """Validate values; raise `error_type`, in one sentence that begins with `place`, if they are not a valid `table`.

    Paths in them are relative to `folder`.
    """
    try:
        return table.model_validate(values, context={"folder": folder or Path()})
    except ValidationError as error:
        raise error_type(f"{place}: {one_line(_problems(error, values, table))}") from None


def without_credentials(text: str) -> str:
    """Redact `user:password@` in every URL of `text`, in time proportional to its length."""
    return _UNQUOTED.sub(lambda found: _redacted(found[0]), text)


def _redacted(text: str) -> str:
    """Redact everything before the last @: a password that was not escaped may contain any character.

    A URL that was taken for a path by mistake counts as well: /etc/edge/rtsp:/user:password@camera
    """
    head, at, rest = text.rpartition("@")
    slash, slashes = head.find("/"), head.find("//")
    if slash != slashes and slash < head.rfind(":"):
        return f"{head[:slash]}/…{at}{rest}"
    return f"{head[:slashes]}//…{at}{rest}" if slashes >= 0 else text


def one_line(text: str) -> str:
    """Return text from a file in displayable form: one line, without credentials."""
    return without_credentials("".join(each if each.isprintable() else repr(each)[1:-1] for each in text))


def _problems(error: ValidationError, values: dict[str, Any], table: type[BaseModel]) -> str:
    """Describe the first problems; the alternatives of one key count as one problem."""
    details_by_key: dict[tuple[str, ...], list[Any]] = {}
    for detail in error.errors(include_url=False):
        details_by_key.setdefault(_key_path(detail, values), []).append(detail)
    problems = [_problem(path, details, table) for path, details in details_by_key.items()]
    more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
    return "; ".join(problems[:_MAX_PROBLEMS]) + more


def _key_path(detail: Any, values: Any) -> tuple[str, ...]:
    """Return the part of an error's location that is in the file; the rest names types of a union."""
    path: list[str] = []
    for part in detail["loc"]:
        if isinstance(values, dict) and part in values:
            values = values[part]
        elif detail["type"] == "missing" and isinstance(values, dict):
            values = None
        else:
            break
        path.append(str(part))
    return tuple(path)


def _problem(path: tuple[str, ...], details: list[Any], table: type[BaseModel]) -> str:
    *sections, key = (_cut(one_line(part)) for part in path or ("",))
    place = f"[{'.'.join(sections)}] {key}" if sections else key
    detail = details[0]
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key{_suggestion(key, _known_keys(table, sections))}"
    wanted = " or ".join(dict.fromkeys(_wanted(each) for each in details))
    if detail["type"] == "missing":
        return f"{place}: missing; {wanted}"
    if detail["type"] == "value_error":
        if isinstance(detail["input"], dict) and path:  # it is about several keys of a table
            place = f"[{'.'.join(path)}]"
        return f"{place}: {wanted}" if place else wanted
    return f"{place}: found {_shown(detail['input'])}, wanted {wanted}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return _cut(one_line(text))  # in this order, so that no half of credentials remains


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _wanted(detail: Any) -> str:
    if detail["type"] == "missing":
        return "this key must be set"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return "a table"
    wanted = str(detail["msg"]).replace("Input should be ", "").replace("a valid ", "a ")
    return wanted.replace("a integer", "a whole number").replace("String should match pattern", "text of the form")


def _known_keys(table: Any, sections: list[str]) -> list[str]:
    """Return the keys of the table at `sections`."""
    for section in sections:
        if isinstance(table, type) and issubclass(table, BaseModel):
            table = table.model_fields[section].annotation
        else:  # dict[str, Table]
            table = get_args(table)[1]
    return list(table.model_fields) if isinstance(table, type) and issubclass(table, BaseModel) else []


def _suggestion(key: str, known: list[str]) -> str:
    return did_you_mean(key, known) or (f"; known keys: {', '.join(known)}" if known else "")
