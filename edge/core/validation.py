"""Validation of TOML files; an error names file, section, key, value found and value wanted in one sentence."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from edge.core.environment import FromEnvironment
from edge.core.errors import EdgeError
from edge.core.files import BYTE_ORDER_MARK
from edge.core.redaction import cut, one_line, redact_address, shown
from edge.core.suggestion import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SettingsT = TypeVar("SettingsT", bound=BaseModel)

_MAX_PROBLEMS = 3  # in one error
_YAML_LINE = re.compile(r"\s*(?:- +)?[\w-]+:(?:\s|$)|---")
_EXAMPLE = 'as in: [streams.door] on one line, source = "rtsp://HOST/PATH" on the next'
_UNQUOTED = re.compile(r"true|false|[-+]?\d{1,20}(\.\d{1,20})?")
_NUMBER_WANTED = ("int_type", "float_type", "bool_type", "literal_error")


class Table(BaseModel):
    """Immutable table of a settings file; unknown keys are refused, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _tuple_of_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


FROM_LIST = BeforeValidator(_tuple_of_list)  # of a tuple, which TOML does not have


def read_settings(path: Path, table: type[SettingsT], error_type: type[EdgeError]) -> SettingsT:
    """Read and validate a TOML file; raise `error_type`, in one sentence, if it is not a valid `table`."""
    return as_table(read_toml(path, error_type), table, error_type, str(path), path.parent.resolve())


def read_toml(path: Path, error_type: type[EdgeError]) -> dict[str, Any]:
    """Read a TOML file in UTF-8, with or without a byte order mark; raise `error_type` if it is none."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8").removeprefix(BYTE_ORDER_MARK)
        values: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        raise error_type(f"{path} cannot be read ({error.strerror}); wanted a readable TOML file") from None
    except UnicodeDecodeError as error:
        raise error_type(f"{path} is not UTF-8 text (byte {error.start}); wanted a TOML file, saved as UTF-8") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        if (other := _other_format(path, text)) is not None:
            raise error_type(f"{path} is {other}; wanted TOML, {_EXAMPLE}") from None
        hint = '; text needs quotes, as in key = "value"' if str(error).startswith("Invalid value") else ""
        raise error_type(f"{path} is not valid TOML: {one_line(str(error))}{hint}; fix it there") from None
    return values


def _other_format(path: Path, text: str) -> str | None:
    """Return the name of the format that a file that is no TOML has instead, if it is a known one."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    first = lines[0].strip() if lines else ""
    if path.suffix.lower() == ".json" or first.startswith(("{", "[{")):
        return "JSON"
    if path.suffix.lower() in (".yaml", ".yml") or _YAML_LINE.match(first):
        return "YAML"
    return None


def as_table(
    values: Any, table: type[SettingsT], error_type: type[EdgeError], place: str, folder: Path | None = None
) -> SettingsT:
    """Validate values; raise `error_type`, in one sentence that begins with `place`, if they are not a valid `table`.

    Paths in them are relative to `folder`.
    """
    context = {"folder": folder or Path()}
    try:
        try:
            return table.model_validate(values, context=context)
        except ValidationError as error:
            if not _read_numbers(error, values):
                raise
            return table.model_validate(values, context=context)
    except ValidationError as error:
        raise error_type(f"{place}: {one_line(_problems(error, values, table))}") from None


def _read_numbers(error: ValidationError, values: Any) -> bool:
    """Replace text from the environment by the number or truth value that is wanted there; return whether any was."""
    is_changed = False
    for detail in error.errors(include_url=False):
        text = detail["input"]
        if detail["type"] in _NUMBER_WANTED and isinstance(text, FromEnvironment):
            with contextlib.suppress(ValueError, RecursionError):
                number = tomllib.loads(f"value = {text}")["value"]
                if isinstance(number, (int, float)):
                    *tables, key = _key_path(detail, values)
                    functools.reduce(lambda inner, part: inner[part], tables, values)[key] = number
                    is_changed = True
    return is_changed


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
    *sections, key = (cut(one_line(redact_address(part))) for part in path or ("",))
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
    hint = _hint(detail) if len(details) == 1 and type(detail["input"]) is str else ""  # not of the environment's
    return f"{place}: found {shown(detail['input'])}, wanted {wanted}{hint}"


def _hint(detail: Any) -> str:
    """Return what is probably meant by a text: one of the values in its place, or a number in quotes."""
    if detail["type"] == "literal_error":
        return did_you_mean(detail["input"], re.findall(r"'([^']+)'", detail["ctx"]["expected"]))
    is_quoted = detail["type"] in _NUMBER_WANTED and _UNQUOTED.fullmatch(detail["input"])
    return ", without quotes" if is_quoted else ""


def _wanted(detail: Any) -> str:
    if detail["type"] == "missing":
        return "this key must be set"
    if detail["type"] == "value_error":
        told, value = str(detail["ctx"]["error"]), detail["input"]
        return value.hide_in(told) if isinstance(value, FromEnvironment) else told
    if detail["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return "a table"
    if detail["type"] == "tuple_type":
        return "a list"
    wanted = str(detail["msg"]).replace("Input should be ", "").replace("a valid ", "a ")
    wanted = wanted.replace("a boolean", "a boolean: true or false")
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
