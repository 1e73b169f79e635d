"""`edge power set`: one of the board's power modes, set."""

from __future__ import annotations

import argparse
import json

HELP = "set a power mode"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("mode", metavar="MODE", help="max-q, max-p, keep, or the name or id of a mode")
    parser.add_argument("--allow-reboot", action="store_true", help="reboot at once where the mode requires it")


def run(options: argparse.Namespace) -> int:
    """Set the mode; raise NoSuchModeError for an unknown one, PowerModeError where it could not be set."""
    from edge.cli.power.modes_report import NO_MODES, measured_here
    from edge.power.jtop import JtopClient
    from edge.power.mode_selection import resolve
    from edge.power.modes import PowerModeError, read_modes, set_mode

    modes = read_modes()
    if modes is None:
        raise PowerModeError(NO_MODES)
    choice = resolve(options.mode, modes, measured_here(options.state_dir))
    done = set_mode(modes, choice.mode, allow_reboot=options.allow_reboot, jtop=JtopClient())
    if options.json:
        print(json.dumps(done.to_json() | {"reason": choice.reason}))
        return 0
    state = "; the board reboots" if done.rebooting else ", unchanged" if done.before == done.mode else ""
    print(f"{choice.mode.shown}{state} ({choice.reason})")
    return 0
