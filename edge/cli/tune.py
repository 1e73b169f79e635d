"""`edge tune`: power modes, precisions, batches and lanes tried on the very pipeline that serves; the best is kept."""

from __future__ import annotations

import json

from rich.console import Console

from edge.core.config import load_config
from edge.core.state_dir import default_state_dir, state_lock
from edge.host.sensors.sensors import Sensors as BoardSensors
from edge.perf.plotting import check_plot
from edge.perf.tune.plan import TunePlan
from edge.perf.tune.plot import plot
from edge.perf.tune.report import show, to_json
from edge.perf.tune.search import TuneSearch
from edge.perf.tune.trial import TrialSensors
from edge.power.mode_guard import Power, RebootingError, terminable
from edge.power.mode_switch import board_power

NOT_WITHIN = 4  # exit code: nothing meets the target


def run(wish: TunePlan, *, as_json: bool) -> int:
    """Search with what this board has, and tell what was found; return the exit code."""
    return tune(wish, board_power(), BoardSensors(), as_json=as_json)


def tune(wish: TunePlan, power: Power | None, sensors: TrialSensors | None, *, as_json: bool) -> int:
    """Search with these power modes and sensors, None where there are none; tell what was found.

    Returns 4 where no setting is within the target.
    """
    if wish.plot is not None:
        check_plot(wish.plot)
    config = load_config(wish.config)
    state_dir = wish.state_dir or default_state_dir(config.device.state_dir)
    with state_lock(state_dir), terminable():
        try:
            found = TuneSearch(wish, config, state_dir, power, sensors).run()
        except RebootingError as told:
            Console(stderr=True).print(str(told), markup=False)
            return told.exit_code
        except KeyboardInterrupt:
            Console(stderr=True).print("what is measured is kept: start the same command again to go on")
            raise
    if as_json:
        print(json.dumps(to_json(found), allow_nan=False))  # noqa: T201 -- the command's output
    else:
        show(found, Console())
    if wish.plot is not None:
        plot(found, wish.plot)
    return 0 if found.profile.max_p is not None else NOT_WITHIN
