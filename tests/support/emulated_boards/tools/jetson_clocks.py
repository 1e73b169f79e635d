"""Answers as NVIDIA's jetson_clocks does; what it did stands in the file `clocks` beside nvpmodel's status.

FAKE_JETSON_CLOCKS=broken lets it fail.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

state = Path(os.environ.get("EDGE_ROOT", "/")) / "var/lib/nvpmodel"
clocks = state / "clocks"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def show() -> None:
    locked = clocks.exists()
    low = 1510400 if locked else 115200
    for core in range(2):
        say(
            f"cpu{core}: Online=1 Governor=schedutil MinFreq={low} MaxFreq=1510400 CurrentFreq=1510400 "
            f"IdleStates: WFI={int(not locked)} c7={int(not locked)}"
        )
    say("cpu2: Online=0 Governor=schedutil MinFreq=115200 MaxFreq=1510400 CurrentFreq=0 IdleStates: WFI=1 c7=1")
    say(f"GPU MinFreq={624750000 if locked else 306000000} MaxFreq=624750000 CurrentFreq=624750000")
    say(f"EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride={int(locked)}")
    say("Fan: PWM=0")


def main() -> int:
    if os.geteuid() != 0:
        say("Please run this script(jetson_clocks) as root.")
        return 1
    if sys.argv[1:] == ["--show"]:
        show()
        return 0
    if sys.argv[1:] or os.environ.get("FAKE_JETSON_CLOCKS") == "broken":
        say("Error: not emulated")
        return 1
    with clocks.open("a") as log:  # locked, within the caps of this mode
        log.write((state / "status").read_text())
    return 0


sys.exit(main())
