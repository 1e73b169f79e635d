"""Processor time of the sensor threads on emulated boards, as a fraction of a core.

Each board runs in an otherwise idle process of its own; the time of the same process without sensors is subtracted.
Exit code 4 if a board takes more than 1 % of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edge.host.sensors.sensors import Sensors
from tests.support.emulated_boards import boards

BOARDS = ("orin-nano", "tx2")  # 3 and 12 rails
BOUND = 0.01  # of one core
TELEMETRY_S = 5.0


def measure(seconds: float, *, with_sensors: bool) -> float:
    """Return the fraction of one core that this process takes while using the sensors as a daemon does."""
    sensors = Sensors()
    if with_sensors:
        sensors.start()
        time.sleep(1.0)  # one-time costs
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    while time.monotonic() - start_s < seconds:
        time.sleep(TELEMETRY_S)
        if with_sensors:
            sensors.read(images=0)
    share = (time.process_time() - start_cpu_s) / (time.monotonic() - start_s)
    sensors.stop()
    return share


def measured(board: str, seconds: float, *, with_sensors: bool) -> float:
    """Measure a board in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = boards.build(board, Path(folder))
        command = [sys.executable, __file__, "--seconds", str(seconds), "--part", "sensors" if with_sensors else "none"]
        done = subprocess.run(
            command, env=os.environ | {"EDGE_ROOT": str(root)}, capture_output=True, text=True, check=True
        )
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=("sensors", "none"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(measure(arguments.seconds, with_sensors=arguments.part == "sensors"))
        return 0
    results, shares = [], []
    for board in BOARDS:
        bare = measured(board, arguments.seconds, with_sensors=False)
        share = measured(board, arguments.seconds, with_sensors=True) - bare
        shares.append(share)
        results.append({"board": board, "rails": len(boards.BOARDS[board].rails), "share_of_core": round(share, 5)})
        if not arguments.json:
            print(f"{boards.BOARDS[board].label}: {len(boards.BOARDS[board].rails)} rails, {share:.2%} of a core")
    if arguments.json:
        print(json.dumps(results))
    return 4 if any(share > BOUND for share in shares) else 0


if __name__ == "__main__":
    sys.exit(main())
