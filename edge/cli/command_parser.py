"""Parser of the command line: whole names only, and a suggestion for a misspelt one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from edge.core.suggestion import closest_name, did_you_mean

USAGE_ERROR = 2  # exit code


class CommandParser(argparse.ArgumentParser):
    """Parser of one command, or of a group of commands, which shows its help where none of them is given."""

    def __init__(self, **settings: Any) -> None:
        """Make a parser as argparse does; an option abbreviated today would mean another one tomorrow."""
        super().__init__(allow_abbrev=False, **settings)
        self.commands: Any = None

    def add_subparsers(self, **settings: Any) -> Any:
        """Make this parser a group of commands."""
        self.commands = super().add_subparsers(**settings)
        return self.commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; refuse those that no option or positional takes."""
        arguments = sys.argv[1:] if args is None else list(args)
        if self.commands is not None and not arguments:
            self.print_help(sys.stderr)
            self.exit(USAGE_ERROR)
        self._check_options(arguments)
        parsed, rest = super().parse_known_args(arguments, namespace)
        if rest:
            self.error(f"found {' '.join(map(repr, rest))}, which this command does not take")
        return parsed, rest

    def _check_options(self, arguments: Sequence[str]) -> None:
        """End with a suggestion for an unknown option, before a missing argument hides it."""
        known = self._option_string_actions
        for argument in arguments:
            if argument == "--" or (self.commands is not None and not argument.startswith("-")):
                return
            option = argument.partition("=")[0]
            if option.startswith("-") and option not in known and " " not in option and not _is_value(option):
                longer = [f"; did you mean {name!r}?" for name in known if name.startswith(option)]
                meant = longer[0] if len(longer) == 1 else did_you_mean(option, known)
                place = "" if self.commands is None else "; options of a command come after its name"
                self.error(f"unknown option {option}{meant or place}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise ArgumentError, with a suggestion, for a value that is no choice of the argument."""
        if action.choices is None or value in action.choices:
            return
        meant = did_you_mean(str(value), map(str, action.choices))
        if not meant and isinstance(action.choices, Mapping):  # a command of a group, given without the group
            meant = _did_you_mean_in_group(str(value), action.choices)
        wanted = ", ".join(map(str, action.choices))
        raise argparse.ArgumentError(action, f"found {value!r}, wanted one of {wanted}{meant}")

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error; exit."""
        super().error(message.removeprefix("argument COMMAND: "))


def _did_you_mean_in_group(word: str, commands: Mapping[str, CommandParser]) -> str:
    full_names = {
        inner: f"{name} {inner}"
        for name, parser in commands.items()
        if parser.commands is not None
        for inner in parser.commands.choices
    }
    meant = closest_name(word, full_names)
    return "" if meant is None else f"; did you mean {full_names[meant]!r}?"


def _is_value(text: str) -> bool:
    """Return whether an argument that begins with a dash is a value: standard input, or a number."""
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True
