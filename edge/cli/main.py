"""The command `edge`: parse the command line, run one command, return its exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edge import __version__
from edge.cli import bench, check, demo, detect, run_daemon, schema, tune
from edge.cli.command_parser import CommandParser
from edge.cli.engines import add_model, build, inspect_engine, list_models, quantize, verify
from edge.cli.outbox import discard_held, send_held, show_backlog
from edge.cli.power import set_mode, show_modes, watch_rails
from edge.core.errors import ConfigError, EdgeError
from edge.host.journal import journal_handler, stderr_is_journal

# The exit code of a shell command that Ctrl-C ended.
INTERRUPTED = 130


class Command(Protocol):
    """A command's module. It imports what it needs when it runs, so that `edge --help` is quick."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the command; return the exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; print a failure as one sentence on standard error."""
    options = _parser().parse_args(arguments)
    level = options.log_level or ("info" if options.run is run_daemon.run else "warning")
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(message)s" if sys.stderr.isatty() else "%(levelname)s %(message)s",
        handlers=[journal_handler() or logging.StreamHandler()],
    )
    try:
        return int(options.run(options))
    except EdgeError as error:
        _print_failure(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output may leave at any time
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PermissionError as error:  # wherever a path of the user's is looked at first
        logging.getLogger(__name__).debug("refused by the system", exc_info=True)
        where = error.filename or "a file"
        _print_failure(f"{where} cannot be used ({error.strerror}); check its permissions and those of its folders")
        return ConfigError.exit_code
    except Exception as error:  # a defect of ours: still no traceback for users
        logging.getLogger(__name__).debug("unexpected failure", exc_info=True)
        failure = f"unexpected failure ({type(error).__name__}: {error})"
        _print_failure(f"{failure}; run it again with --log-level debug, and report it")
        return 1


def _print_failure(failure: str) -> None:
    """Print a failure on standard error; in the journal log it as an error, where a line would be mere information."""
    if stderr_is_journal():
        logging.getLogger(__name__).error(failure)
    else:
        print(f"edge: {failure}", file=sys.stderr)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="edge",
        description="Inference runtime for NVIDIA Jetson boards, and for any Linux machine; try edge demo first.",
    )
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    common = _common_options()
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")

    def add(name: str, command: Command, under: Any = commands) -> None:
        added = under.add_parser(name, parents=[common], help=command.HELP, description=command.HELP)
        command.add_arguments(added)
        added.set_defaults(run=command.run)

    def add_group(name: str, text: str) -> Any:
        group = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        return group.add_subparsers(required=True, title="commands", metavar="COMMAND")

    add("demo", demo)
    add("run", run_daemon)
    add("check", check)
    add("detect", detect)
    engines = add_group("engines", "the model repository")
    add("list", list_models, engines)
    add("add", add_model, engines)
    add("build", build, engines)
    add("inspect", inspect_engine, engines)
    add("verify", verify, engines)
    add("quantize", quantize, engines)
    outbox = add_group("outbox", "the messages that wait on disk")
    add("show", show_backlog, outbox)
    add("send", send_held, outbox)
    add("discard", discard_held, outbox)
    power = add_group("power", "the board's power modes")
    add("show", show_modes, power)
    add("set", set_mode, power)
    add("watch", watch_rails, power)
    add("tune", tune)
    add("bench", bench)
    add("schema", schema)
    return parser


def _common_options() -> CommandParser:
    common = CommandParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON on standard output")
    common.add_argument("--state-dir", type=Path, help="folder in which this device keeps its state")
    levels = ("debug", "info", "warning", "error")
    common.add_argument("--log-level", choices=levels, help="default: info for run, otherwise warning")
    return common
