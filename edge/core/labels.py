"""Labels of a model's classes: from a text file, from the `names` of a data set's YAML file, or from an ONNX file."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.core.errors import ModelError
from edge.core.files import BYTE_ORDER_MARK

# Not str.splitlines: it also splits at characters that may be within a name.
_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBERED = re.compile(r"(\d{1,6})([:,]\s*|\t\s*|\s+)(\S.*)")
_CLEAR_SEPARATOR = re.compile(r"[:,]\s*|\t\s*|\s{2,}")  # a name may itself be a number and a word: "1 euro"
_YAML = (".yaml", ".yml")
_NO_LISTS = (".json", ".xml", ".pbtxt", ".toml", ".csv")
_NAME = r"""(?P<name>'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|[^,'"][^,]*)\s*(?:,\s*|$)"""
_FLOW_NAME = re.compile(_NAME)
_FLOW_PAIR = re.compile(r"""['"]?(?P<number>\d+)['"]?\s*:\s*""" + _NAME)
_QUOTED_OR_COMMENT = re.compile(r"""((?<![^\s:,\[{-])(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"))|(?<!\S)#.*""")
_METADATA_KEYS = ("names", "class_names", "id2label", "labels", "classes")
_LONGEST_METADATA = 1 << 20  # characters
_MOST_CLASSES = 1 << 16
_WANTED = "wanted a UTF-8 text file, one label per line"


def read_labels_file(path: Path) -> tuple[str, ...]:
    """Read a labels file; raise ModelError, in one sentence, if it is none."""
    try:
        text = path.read_text(encoding="utf-8").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise ModelError(
            f"labels file {str(path)!r} cannot be read (byte {error.start} is no UTF-8); {_WANTED}: save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ModelError(f"labels file {str(path)!r} cannot be read ({error}); {_WANTED}") from None
    try:
        return parse_labels(text, path.suffix)
    except ValueError as error:
        raise ModelError(f"labels file {str(path)!r}: {error}") from None


def parse_labels(text: str, suffix: str = ".txt") -> tuple[str, ...]:
    """Return the labels in a text; raise ValueError if it has another form. A class without a name has the label ""."""
    if suffix.lower() in _NO_LISTS:
        raise ValueError(f"a {suffix} file is no list of labels; {_WANTED}, or a data set's YAML file with `names`")
    lines = _LINE_END.split(text)
    if suffix.lower() in _YAML:
        return _yaml_names(lines)
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return _without_numbers(lines)


def names_of_metadata(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the classes that an ONNX file's metadata have, as Ultralytics writes them; () without any."""
    for key in _METADATA_KEYS:
        text = metadata.get(key, "")
        if not 0 < len(text) <= _LONGEST_METADATA:
            continue
        try:
            return _in_order(ast.literal_eval(text.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return ()


def labels_text(labels: Sequence[str]) -> str | None:
    """Return the content of a labels file; None if these names would be read back as others."""
    text = "".join(f"{label}\n" for label in labels)
    try:
        return text if parse_labels(text) == tuple(labels) else None
    except ValueError:
        return None


def _without_numbers(lines: Sequence[str]) -> tuple[str, ...]:
    """Return lines of the form `0 person` or `0: person` as names at their numbers; others as they are."""
    matches = [match for line in lines if line and (match := _NUMBERED.fullmatch(line))]
    if not matches or len(matches) < sum(map(bool, lines)):
        return tuple(lines)
    numbers = [int(match[1]) for match in matches]
    if numbers == sorted(set(numbers)) and numbers[0] == 0:
        return _in_order({int(match[1]): _scalar(match[3]) for match in matches})
    if all(_CLEAR_SEPARATOR.fullmatch(match[2]) for match in matches):
        raise ValueError(
            f"the lines have numbers, and the first is {numbers[0]}; wanted numbers from 0 upwards, each class's own: "
            "number them so, or remove the numbers"
        )
    return tuple(lines)


def _in_order(names: object) -> tuple[str, ...]:
    """Return names, as a list or by their numbers, in the order of the classes; raise ValueError for anything else."""
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ValueError("found no names; wanted a list of names, or names by their numbers")
    by_number = {int(number) if str(number).isdecimal() else -1: str(name).strip() for number, name in names.items()}
    if min(by_number) < 0 or max(by_number) >= _MOST_CLASSES or len(by_number) < len(names):
        raise ValueError("found names whose keys are not the numbers of classes; wanted each class's own, from 0")
    return tuple(by_number.get(number, "") for number in range(max(by_number) + 1))


def _yaml_names(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the `names` of a data set's YAML file; raise ValueError if there are not as many as its `nc` says."""
    names = _names_in(lines)
    count = next((match[1] for line in lines if (match := re.match(r"nc\s*:\s*(\d{1,6})\s*(#|$)", line))), None)
    if count is not None and int(count) != len(names):
        raise ValueError(f"it has {len(names)} names and nc: {count}; wanted as many names as classes")
    return names


def _names_in(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the names: a list or a map, in block or in flow form."""
    start = next((number for number, line in enumerate(lines) if re.match(r"names\s*:(\s|$)", line)), None)
    if start is None:
        raise ValueError("it has no key `names`; wanted names: with a list, or a map of numbers to names")
    first = _uncommented(lines[start].partition(":")[2])
    block = []
    for line in lines[start + 1 :]:
        if line.strip() and not line.startswith((" ", "\t", "-", "#", "]", "}")):
            break  # the next key
        block.append(_uncommented(line))
    block = [line for line in block if line]
    if first:
        return _in_order(_flow(" ".join([first, *block])))
    if block and all(line.startswith("- ") for line in block):
        return _in_order([_scalar(line[2:]) for line in block])
    pairs = [re.fullmatch(r"(\d+|'\d+'|\"\d+\")\s*:\s+(.+)", line) for line in block]
    if not block or not all(pairs):
        raise ValueError("its `names` cannot be read; wanted a list, or a map of numbers to names, one a line")
    return _in_order(_by_number([(match[1].strip("'\""), _scalar(match[2])) for match in pairs if match]))


def _uncommented(line: str) -> str:
    """Return a YAML line without its comment; a # within quotes, or within a word, is none."""
    return _QUOTED_OR_COMMENT.sub(lambda match: match[1] or "", line).strip()


def _flow(text: str) -> object:
    """Parse `[a, 'b']` or `{0: a, 1: b}`."""
    brackets = (text[:1], text[-1:])
    if brackets not in (("[", "]"), ("{", "}")):
        raise ValueError("its `names` cannot be read; wanted a list, or a map of numbers to names")
    entry = _FLOW_PAIR if brackets[0] == "{" else _FLOW_NAME
    inner, at = text[1:-1].strip(), 0
    found: list[tuple[str, str]] = []
    while at < len(inner):
        match = entry.match(inner, at)
        if match is None:
            raise ValueError(f"its `names` cannot be read at {inner[at : at + 20]!r}; wanted a list, or a map")
        found.append((match["number"] if brackets[0] == "{" else str(len(found)), _scalar(match["name"])))
        at = match.end()
    return _by_number(found)


def _by_number(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return names by their numbers; raise ValueError for a number that comes twice."""
    names = dict(found)
    if len(names) < len(found):
        raise ValueError("its `names` give a number twice; wanted each class once")
    return names


def _scalar(text: str) -> str:
    """Return a YAML text with or without quotes."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            return text[1:-1]
    return text
