"""PID 1 of a namespace of its own: lays an emulated board over this machine, starts jtop's service, runs commands.

A line in is {"command": [...], "user": number, "groups": [...]}; a line out is {"code", "out", "error"}. Nothing that
is written here reaches the machine below: all of it goes to a tmpfs, which ends with the namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOCKET = Path("/run/jtop.sock")
LOG = Path("/run/service.log")
READY_S = 40.0
COMMAND_S = 90.0
JTOP_GROUP = 64123
CORES = 4


def main(python: str, *paths: str) -> None:
    """Make the machine; `python` has jetson-stats, and `paths` are to be there for users other than root."""
    _lay_over([Path(path) for path in paths])
    _make_board()
    with LOG.open("w", encoding="utf-8") as log:
        service = subprocess.Popen(
            [python, str(HERE / "serve.py")], stdout=log, stderr=log, env=os.environ | {"JTOP_TESTING": "true"}
        )
    until_s = time.monotonic() + READY_S
    while not (SOCKET.exists() and "service ready" in LOG.read_text(encoding="utf-8")):
        if time.monotonic() > until_s or service.poll() is not None:
            sys.exit(f"the service did not come up: {LOG.read_text(encoding='utf-8')}")
        time.sleep(0.1)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)
    service.terminate()
    service.wait(10)


def _run(command: list[str], user: int, groups: list[int]) -> dict[str, object]:
    # A user of its own: root passes every check of rights.
    done = subprocess.run(
        command,
        user=user,
        group=user,
        extra_groups=groups,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    return {"code": done.returncode, "out": done.stdout, "error": done.stderr}


def _lay_over(paths: list[Path]) -> None:
    """Go over to a root of which every change is forgotten."""
    top = Path("/mnt")
    _mount("-t", "tmpfs", "tmpfs", str(top))
    root, upper, work = (top / name for name in ("root", "upper", "work"))
    for folder in (root, upper, work):
        folder.mkdir()
    _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", str(root))
    own_device = Path("/").stat().st_dev
    for path in paths:
        if path.stat().st_dev != own_device:  # the overlay holds one file system alone
            _mount("--rbind", str(path), f"{root}{path}")
        else:
            _open_folders(root, path)
    _mount("-t", "proc", "proc", str(root / "proc"))
    _mount("--rbind", "/sys", str(root / "sys"))
    _mount("--rbind", "/dev", str(root / "dev"))
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / "dev/shm"))
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root / "run"))
    os.chroot(root)
    os.chdir("/")


def _open_folders(root: Path, path: Path) -> None:
    """Let everybody pass the folders above a path, such as root's home; in the overlay alone."""
    for folder in [path, *path.parents][:-1]:
        inside = Path(f"{root}{folder}")
        inside.chmod(stat.S_IMODE(inside.stat().st_mode) | 0o055)


def _make_board() -> None:
    for name in ("nvpmodel", "jetson_clocks"):
        shutil.copy(HERE / name, f"/usr/bin/{name}")
    _write("/var/lib/nvpmodel/fake_mode", "3\n")
    with Path("/etc/group").open("a", encoding="utf-8") as groups:
        groups.write(f"jtop:x:{JTOP_GROUP}:\n")
    cpu = "0 0 0 100 0 0 0 0 0 0"
    _write("/fake_sys/stat", "".join(f"cpu{number} {cpu}\n" for number in ["", *range(CORES)]))
    for number in range(CORES):
        folder = f"/fake_sys/devices/system/cpu/cpu{number}"
        _write(f"{folder}/online", "1\n")
        _write(f"{folder}/cpufreq/scaling_governor", "schedutil\n")
        for kind in ("scaling", "cpuinfo"):
            for which, khz in (("min", 729_600), ("max", 2_201_600), ("cur", 729_600)):
                _write(f"{folder}/cpufreq/{kind}_{which}_freq", f"{khz}\n")
    for folder in ("class/devfreq", "class/hwmon", "class/power_supply", "bus/i2c/devices", "kernel/debug/clk"):
        Path("/fake_sys", folder).mkdir(parents=True)


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
