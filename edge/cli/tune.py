"""`edge tune`: the best lanes, batch, precision and power mode for a latency target."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.cli.arguments import LARGEST_BATCH, PRECISIONS, counts, names, positive, seconds

HELP = "find the best lanes, batch, precision and power mode for a latency target, and save them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("config", type=Path, help="TOML file whose streams are the load")
    add("--model", metavar="NAME", help="model to tune, where streams use several")
    add("--target-p99-ms", type=positive, metavar="MS", help="limit from capture to result (default: none)")
    add("--seconds", type=seconds, default=20.0, metavar="S", help="measuring time of each setting (default: 20)")
    modes = "modes of the board (default: all that need no reboot)"
    add("--power-modes", type=names(), default=(), metavar="NAME,…", help=modes)
    devices = ("gpu", "dla0", "dla1", "cpu")
    configured = f"{', '.join(devices)} (default: as configured)"
    add("--devices", type=names(*devices), default=(), metavar="NAME,…", help=configured)
    add("--precisions", type=names(*PRECISIONS), default=(), metavar="NAME,…", help=", ".join(PRECISIONS))
    add("--batches", type=counts(LARGEST_BATCH), default=(), metavar="N,…", help="largest batches (default: 1,2,4,8)")
    add("--lanes", type=counts(256), default=(), metavar="N,…", help="default: what suits the device")
    add("--saturate", action="store_true", help="let files and synthetic sources deliver as fast as they are read")
    reboot = "reboot for modes that require it; run the same command again to continue"
    add("--allow-reboot", action="store_true", help=reboot)
    add("--fresh", action="store_true", help="discard the measurements of an earlier run")
    add("--plot", type=Path, metavar="FILE.png|.svg", help="plot the measurements (needs matplotlib)")


def run(options: argparse.Namespace) -> int:
    """Search with the power modes and sensors of this board; return 4 where no setting meets the target."""
    from edge.host.sensors.sensors import Sensors
    from edge.perf.tune.plan import TunePlan
    from edge.perf.tune.session import tune
    from edge.power.board_power import board_power

    plan = TunePlan(
        config=options.config,
        model=options.model,
        target_p99_ms=options.target_p99_ms,
        seconds=options.seconds,
        power_modes=options.power_modes,
        devices=options.devices,
        precisions=options.precisions,
        batches=options.batches,
        lanes=options.lanes,
        saturate=options.saturate,
        allow_reboot=options.allow_reboot,
        fresh=options.fresh,
        plot=options.plot,
        state_dir=options.state_dir,
    )
    return tune(plan, board_power(), Sensors(), as_json=options.json)
