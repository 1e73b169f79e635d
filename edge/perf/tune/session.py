"""Tuning session: settings measured on the pipeline that serves, and the result printed."""

from __future__ import annotations

import json

from rich.console import Console

from edge.core.config import load_config
from edge.core.console import output_console
from edge.core.state_dir import find_state_dir, state_lock
from edge.perf.plotting import check_plot
from edge.perf.tune.plan import TunePlan
from edge.perf.tune.plot import plot
from edge.perf.tune.report import show, to_json
from edge.perf.tune.search import TuneSearch
from edge.perf.tune.trial import TrialSensors
from edge.power.mode_guard import Power, RebootingError, terminable

TARGET_NOT_MET = 4  # exit code


def tune(plan: TunePlan, power: Power | None, sensors: TrialSensors | None, *, as_json: bool) -> int:
    """Search with these power modes and sensors, if any, and print the result; return 4 if nothing meets the target."""
    if plan.plot is not None:
        check_plot(plan.plot)
    config = load_config(plan.config)
    state_dir = find_state_dir(plan.state_dir, config.device.state_dir)
    with state_lock(state_dir), terminable():
        try:
            found = TuneSearch(plan, config, state_dir, power, sensors).run()
        except RebootingError as reboot:
            Console(stderr=True).print(str(reboot), markup=False)
            return reboot.exit_code
        except KeyboardInterrupt:
            Console(stderr=True).print("measurements are kept: run the same command again to continue")
            raise
    if as_json:
        print(json.dumps(to_json(found), allow_nan=False))  # noqa: T201 -- the command's output
    else:
        show(found, output_console())
    if plan.plot is not None:
        plot(found, plan.plot)
    return 0 if found.profile.max_p is not None else TARGET_NOT_MET
