"""Answers as NVIDIA's nvpmodel does, on the files below EDGE_ROOT.

FAKE_NVPMODEL holds what goes wrong, by words:
  hang     never ends, and has a child that never ends
  silent   does nothing, and finds nothing wrong
  error    prints an error, does nothing, exit code 0
  partly   prints an error, changes the mode, exit code 0
  drift    the GPU's mask is not the mode's: asks for a reboot for every mode, the current one too
  chroot   writes its status and nothing else
  guest    behaves as for one who is not root
  slow     takes a second for a change
  fan      warns of the fan
  mute     tells no mode
Beside its status it notes: each change that begins in `starts`, each that is done in `changes`, reboots in `reboots`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

root = Path(os.environ.get("EDGE_ROOT", "/"))
wrong = os.environ.get("FAKE_NVPMODEL", "").split()
status = root / "var/lib/nvpmodel/status"


def say(*lines: object) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def modes() -> tuple[dict[int, str], dict[int, str]]:
    conf = root / "etc/nvpmodel.conf"
    text = (root / str(conf.readlink()).lstrip("/") if conf.is_symlink() else conf).read_text()
    found: dict[int, str] = {}
    masks: dict[int, str] = {}
    for line in text.splitlines():
        if match := re.match(r"<\s*POWER_MODEL ID=(\d+) NAME=(.*?)\s*>", line):
            current = int(match[1])
            found[current] = match[2]
        elif match := re.match(r"\w+ \w*PG_MASK (\d+)", line):
            masks[current] = match[1]
    return found, masks


def note(file: str, text: object) -> None:
    with (status.parent / file).open("a") as log:
        log.write(f"{text}\n")


def store(mode: int) -> None:
    status.write_text(f"pmode:{mode:04d}\n")
    note("changes", mode)


def query(names: dict[int, str], mode: int) -> None:
    if "fan" in wrong:
        say("NVPM WARN: fan mode is not set!")
    if "guest" in wrong or os.geteuid() != 0:
        say("NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13")
    if "mute" not in wrong:
        say(f"NV Power Mode: {names[mode]}", mode)


def change(names: dict[int, str], masks: dict[int, str], mode: int, wanted: int) -> int:
    if wanted not in names:
        say(f"NVPM ERROR: power mode ID {wanted} not found")  # the exact words are not known
        return 1
    note("starts", wanted)
    if refuses(wanted):
        return 0
    if "slow" in wrong:
        time.sleep(1)
    if "drift" in wrong or masks.get(mode) != masks.get(wanted):
        return reboot(wanted)
    store(wanted)
    if "partly" in wrong:
        say("NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13")
    return 0


def refuses(wanted: int) -> bool:
    """Go wrong as told, with exit code 0."""
    if "hang" in wrong:
        note("children", subprocess.Popen(["sleep", "1000"]).pid)
        time.sleep(1000)
    elif "error" in wrong:
        say("NVPM ERROR: Error writing 255 to /sys/devices/gpu.0/power/control: 22")
    elif "guest" in wrong or os.geteuid() != 0:
        say("NVPM ERROR: Error opening /sys/devices/system/cpu/cpu1/online: 13")
    elif "chroot" in wrong:
        say("Running in chroot, ignoring request.")
        store(wanted)
    else:
        return "silent" in wrong
    return True


def reboot(wanted: int) -> int:
    say("NVPM WARN: Golden image context is already created")
    say(f"NVPM WARN: Reboot required for changing to this power mode: {wanted}")
    say("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:")
    answer = sys.stdin.readline()
    if not answer:
        say("NVPM ERROR: bad input!")
        return 234
    if answer.strip() not in ("YES", "yes"):
        say("NVPM ERROR: optMask is 1, no request for power mode")
        return 0
    store(wanted)
    note("reboots", wanted)
    return 0


def main() -> int:
    names, masks = modes()
    mode = int(status.read_text().partition(":")[2].split()[0])
    arguments = sys.argv[1:]
    if arguments == ["-q"]:
        query(names, mode)
        return 0
    if len(arguments) == 2 and arguments[0] == "-m":
        return change(names, masks, mode, int(arguments[1]))
    say(f"NVPM ERROR: not emulated: {arguments}")
    return 1


sys.exit(main())
