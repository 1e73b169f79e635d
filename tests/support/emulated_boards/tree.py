"""A board's files as folders below a root; links as the kernel makes them, absolute for /proc/device-tree alone."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.emulated_boards.described import EmulatedBoard, Monitor


def write_board(board: EmulatedBoard, folder: Path) -> None:
    _identity(board, folder)
    for number, monitor in enumerate(board.monitors):
        write_monitor(folder, monitor, number + 2)
    _thermal(board, folder)
    _gpu(board, folder)
    _memory(board, folder)
    for device, state in (board.dlas or {}).items():
        write(folder / f"sys/devices/{device}/power/runtime_status", state)
    if board.has_counters:
        chip = _hwmon(folder, "platform/soctherm-oc-event", 9, "soctherm_oc")
        for number in (1, 2, 3):
            write(chip / f"oc{number}_event_cnt", 2 if number == 3 else 0)  # of before
            write(chip / f"oc{number}_throt_en", 1)
    _fan(board, folder)


def write(path: Path, value: object) -> None:
    """Write what a driver would show: one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n", encoding="utf-8")


def as_container(folder: Path) -> None:
    """Take away what a container does not see: the release file and the kernel's view of the I2C bus."""
    (folder / "etc/nv_tegra_release").unlink()


def chip_folder(folder: Path, rail: str) -> tuple[Path, int]:
    """Return where a rail's files are now, and its channel."""
    for pattern in ("sys/devices/**/in*_label", "sys/devices/**/rail_name_*"):
        for path in folder.glob(pattern):
            if path.read_text(encoding="utf-8").strip() == rail:
                digits = "".join(each for each in path.name if each.isdigit())
                return path.parent, int(digits)
    raise LookupError(rail)


def value_files(folder: Path, rail: str) -> tuple[Path, ...]:
    """Return the files that hold a rail's reading: voltage and current, or one of power."""
    chip, number = chip_folder(folder, rail)
    if (power := chip / f"in_power{number}_input").exists() or (power := chip / f"power{number}_input").exists():
        return (power,)
    return chip / f"in{number}_input", chip / f"curr{number}_input"


def link(path: Path, target: Path) -> None:
    """Link as the kernel does below /sys: relatively."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def _identity(board: EmulatedBoard, folder: Path) -> None:
    tree = folder / "sys/firmware/devicetree/base"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(board.model.encode() + b"\0")
    (tree / "compatible").write_bytes(b"".join(each.encode() + b"\0" for each in board.compatible))
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc/device-tree").symlink_to("/sys/firmware/devicetree/base")
    write(folder / "proc/meminfo", f"MemTotal:       {board.memory_kb} kB")
    write(folder / "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 62.50")
    major, minor = board.release
    write(
        folder / "etc/nv_tegra_release",
        f"# R{major} (release), REVISION: {minor}, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Mon Jan 1 2024",
    )
    packages = (("nvidia-l4t-core", board.core), board.tensorrt, board.cuda)
    stanzas = [
        f"Package: {package}\nStatus: install ok installed\nVersion: {version}\nDescription: x\n y\n"
        for package, version in packages
    ]
    write(folder / "var/lib/dpkg/status", "\n".join(stanzas))


def _hwmon(folder: Path, device: str, number: int, name: str) -> Path:
    chip = folder / f"sys/devices/{device}/hwmon/hwmon{number}"
    write(chip / "name", name)
    link(folder / f"sys/class/hwmon/hwmon{number}", chip)
    return chip


def write_monitor(folder: Path, monitor: Monitor, number: int) -> None:
    bus = monitor.address.partition("-")[0]
    device = f"platform/c240000.i2c/i2c-{bus}/{monitor.address}"
    link(folder / f"sys/bus/i2c/devices/{monitor.address}", folder / "sys/devices" / device)
    link(folder / f"sys/bus/i2c/drivers/{monitor.driver}/{monitor.address}", folder / "sys/devices" / device)
    if monitor.driver == "ina3221x":
        _iio(folder / f"sys/devices/{device}/iio:device{number}", monitor)
        return
    chip = _hwmon(folder, device, number, monitor.driver)
    for channel, (label, mv, ma) in enumerate(monitor.rails, 1):
        write(chip / f"in{channel}_label", label)
        write(chip / f"in{channel}_enable", 0 if label in monitor.disabled else 1)
        write(chip / f"in{channel}_input", mv)
        write(chip / f"curr{channel}_input", ma)
        if monitor.driver == "ina238":
            (chip / f"in{channel}_label").unlink()
            (chip / f"in{channel}_enable").unlink()
            write(chip / f"power{channel}_input", mv * ma)
        else:
            write(chip / f"shunt{channel}_resistor", 5000)
            write(chip / f"in{channel + 3}_input", ma * 5)
    if monitor.driver == "ina3221":
        write(chip / "in7_label", "sum of shunt voltages")
        write(chip / "in7_input", 5 * sum(ma for _, _, ma in monitor.rails))
        write(chip / "curr4_input", sum(ma for _, _, ma in monitor.rails))


def _iio(chip: Path, monitor: Monitor) -> None:
    write(chip / "name", "ina3221x")
    for channel, (label, mv, ma) in enumerate(monitor.rails):
        write(chip / f"rail_name_{channel}", label)
        write(chip / f"in_voltage{channel}_input", mv)
        write(chip / f"in_current{channel}_input", ma)
        write(chip / f"in_power{channel}_input", mv * ma // 1000)
        write(chip / f"crit_current_limit_{channel}", "32760 ma")


def _thermal(board: EmulatedBoard, folder: Path) -> None:
    for number, (kind, millidegrees) in enumerate(board.zones_mc.items()):
        zone = folder / f"sys/devices/virtual/thermal/thermal_zone{number}"
        write(zone / "type", kind)
        if millidegrees is not None:
            write(zone / "temp", millidegrees)
        link(folder / f"sys/class/thermal/thermal_zone{number}", zone)
    for number, kind in enumerate(board.brakes):
        device = folder / f"sys/devices/virtual/thermal/cooling_device{number}"
        write(device / "type", kind)
        write(device / "cur_state", 1 if kind == "pwm-fan" else 0)
        link(folder / f"sys/class/thermal/cooling_device{number}", device)


def _gpu(board: EmulatedBoard, folder: Path) -> None:
    device = folder / "sys/devices" / board.gpu
    name = board.gpu_class or device.name
    devfreq = device / "devfreq" / name
    write(devfreq / "cur_freq", board.gpu_hz)
    link(devfreq / "device", device)
    link(folder / f"sys/class/devfreq/{name}", devfreq)
    if board.gpu_node:
        node = folder / f"sys/firmware/devicetree/base/{device.name}"
        node.mkdir(parents=True, exist_ok=True)
        (node / "name").write_bytes(board.gpu_node.encode() + b"\0")
        link(device / "of_node", node)
    if board.gpu_load is not None:
        write(device / "load", board.gpu_load)


def _memory(board: EmulatedBoard, folder: Path) -> None:
    if board.emc_hz is None:
        return
    if board.soc == "tegra264":
        write(folder / "sys/class/devfreq/bwmgr/cur_freq", board.emc_hz)
        return
    write(folder / "sys/kernel/debug/bpmp/debug/clk/emc/rate", board.emc_hz)
    write(folder / "sys/kernel/actmon_avg_activity/mc_all", board.emc_activity_khz)


def _fan(board: EmulatedBoard, folder: Path) -> None:
    if board.fan is None:
        return
    width, rpm = board.fan
    if board.release[0] == "32":
        write(folder / "sys/devices/pwm-fan/cur_pwm", width)
        write(folder / "sys/devices/pwm-fan/rpm_measured", rpm)
        return
    write(_hwmon(folder, "platform/pwm-fan", 0, "pwmfan") / "pwm1", width)
    write(_hwmon(folder, "platform/39c0000.tachometer", 1, "pwm_tach") / "rpm", rpm)
