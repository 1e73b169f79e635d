"""Identity of the machine: module, SKU, L4T, JetPack, CPU and GPU."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from edge.host.packages import cuda_version, l4t_version, read_packages, tensorrt_version
from edge.host.paths import glob, inside, read_text

# Part numbers of modules, as in the device tree and the module's EEPROM; without a SKU, a whole family.
MODULES = {
    "p3834-0008": "Jetson Thor T5000",
    "p3834-0000": "Jetson Thor T4000",
    "p3767-0000": "Jetson Orin NX 16GB",
    "p3767-0001": "Jetson Orin NX 8GB",
    "p3767-0003": "Jetson Orin Nano 8GB",
    "p3767-0004": "Jetson Orin Nano 4GB",
    "p3767-0005": "Jetson Orin Nano 8GB",  # of the developer kit
    "p3701-0000": "Jetson AGX Orin 64GB",
    "p3701-0005": "Jetson AGX Orin 64GB",
    "p3701-0004": "Jetson AGX Orin 32GB",
    "p3701-0008": "Jetson AGX Orin Industrial",
    "p3668": "Jetson Xavier NX",
    "p2888": "Jetson AGX Xavier",
    "p3636": "Jetson TX2 NX",
    "p3448": "Jetson Nano",
    "p3310": "Jetson TX2",
    "p2180": "Jetson TX1",
}
THOR_BY_SPECIFICATION = {
    "jetson-agx-thor-devkit": "Jetson Thor T5000",
    "jetson-agx-thor-t4000": "Jetson Thor T4000",
}
THOR_T5000_MEMORY_KB = 96_000_000

# JetPack by L4T release; a release ending in a dot stands for all that start with it.
JETPACKS = {
    "32.6.1": "4.6", "32.7.6": "4.6.6",
    "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4", "35.6.1": "5.1.5",
    "35.6.2": "5.1.5", "35.6.4": "5.1.6",
    "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.5.0": "6.2.2",
    "38.2.": "7.0", "38.4.0": "7.1", "39.2.0": "7.2",
}  # fmt: skip

_SOC = re.compile(r"tegra\d{3}$")
_PART = re.compile(r"p\d{4}-\d{4}")
_EEPROM_PART = re.compile(rb"69\d-\d(\d{4})-(\d{4})")
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: (\d[\d.]*)")


@dataclass(frozen=True, slots=True)
class Board:
    """The machine; None for what cannot be read."""

    name: str  # the module's name on a Jetson; elsewhere the processor's
    model: str | None  # the device tree's, for display
    module: str | None  # "Jetson Orin Nano 8GB"
    sku: str | None  # "p3767-0003"
    soc: str | None  # "tegra234"
    l4t: str | None  # "36.4.3"
    jetpack: str | None  # "6.2"
    cuda: str | None  # installed on this machine or in this container, like TensorRT
    tensorrt: str | None
    cpu: str | None
    gpu: str | None

    @property
    def is_jetson(self) -> bool:
        return self.soc is not None

    @property
    def summary(self) -> str:
        """One line for people."""
        if not self.is_jetson:
            return f"not a Jetson: CPU {self.cpu or 'unknown'}, GPU {self.gpu or 'none found'}"
        known = {"L4T": self.l4t, "JetPack": self.jetpack, "CUDA": self.cuda, "TensorRT": self.tensorrt}
        versions = [f"{thing} {version or 'unknown'}" for thing, version in known.items()]
        return ", ".join([f"{self.name} ({self.sku or 'SKU unknown'}, {self.soc})", *versions])

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"is_jetson": self.is_jetson}


def read_board() -> Board:
    """Read the machine's identity, from files alone and within milliseconds."""
    packages = read_packages()
    compatible = _strings("/proc/device-tree/compatible")
    soc = next((found[0] for each in compatible if (found := _SOC.findall(each))), None)
    model = read_text("/proc/device-tree/model")
    sku = _sku(compatible) if soc else None
    module = _module(sku, soc)
    l4t = (release_of(read_text("/etc/nv_tegra_release") or "") or l4t_version(packages)) if soc else None
    cpu = _processor()
    return Board(
        name=module or model or board_name(),
        model=model,
        module=module,
        sku=sku,
        soc=soc,
        l4t=l4t,
        jetpack=jetpack_of(l4t),
        cuda=cuda_version(packages),
        tensorrt=tensorrt_version(packages),
        cpu=cpu,
        gpu=None if soc else _gpu(),
    )


def board_name() -> str:
    """Return the device tree's model name, else the processor's."""
    return read_text("/proc/device-tree/model") or f"{platform.machine()} ({_processor() or 'processor unknown'})"


def manufacturer() -> str | None:
    """Return the machine's manufacturer, from the device tree or the firmware; None if neither names one."""
    if any(_SOC.search(each) for each in _strings("/proc/device-tree/compatible")):
        return "NVIDIA"
    return read_text("/sys/class/dmi/id/sys_vendor") or None


def machine_identity() -> str:
    """Return a hash that tells this machine from a copy of its disk, as far as serial number and machine id do."""
    known = [read_text(path) or "" for path in ("/proc/device-tree/serial-number", "/etc/machine-id")]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]


def release_of(text: str) -> str | None:
    """Return the release in the text of /etc/nv_tegra_release, `36.4.3`."""
    found = _RELEASE.search(text)
    return f"{found[1]}.{found[2].rstrip('.')}" if found else None


def jetpack_of(l4t: str | None) -> str | None:
    """Return the JetPack of an L4T release; None if the table lacks it."""
    if l4t is None:
        return None
    families = (JETPACKS[start] for start in JETPACKS if start.endswith(".") and l4t.startswith(start))
    return JETPACKS.get(l4t) or next(families, None)


def part_number(eeprom: bytes) -> str | None:
    """Return the part number in a module's EEPROM, "699-13767-0003-…" as `p3767-0003`."""
    found = _EEPROM_PART.search(eeprom)
    return f"p{found[1].decode()}-{found[2].decode()}" if found else None


def _sku(compatible: list[str]) -> str | None:
    """Return the module's part number: from its EEPROM if this user may read it, else from the device tree."""
    candidates = [*_eeprom_parts(), *(part for each in compatible for part in _PART.findall(each))]
    return next((part for part in candidates if part in MODULES or part[:5] in MODULES), None)


def _eeprom_parts() -> Iterator[str]:
    for path in glob("/sys/bus/i2c/devices/*-0050/eeprom"):  # the carrier's is at 0x57
        try:
            part = part_number(inside(path).read_bytes())
        except OSError:
            continue
        if part:
            yield part


def _module(sku: str | None, soc: str | None) -> str | None:
    if sku is not None:
        return MODULES.get(sku) or MODULES[sku[:5]]
    return _thor_module() if soc == "tegra264" else None


def _thor_module() -> str | None:
    """Return which of the two Thor modules this is, without a part number."""
    text = read_text("/etc/nv_boot_control.conf") or ""
    named = (module for specification, module in THOR_BY_SPECIFICATION.items() if specification in text)
    memory = re.search(r"MemTotal:\s+(\d+) kB", read_text("/proc/meminfo") or "")
    by_memory = "Jetson Thor T5000" if memory and int(memory[1]) >= THOR_T5000_MEMORY_KB else None
    return next(named, by_memory)


def _strings(path: str) -> list[str]:
    """Return the zero-terminated strings of a device tree property."""
    try:
        return [each for each in inside(path).read_bytes().decode(errors="replace").split("\0") if each]
    except OSError:
        return []


def _processor() -> str | None:
    names = re.findall(r"^model name\s*:\s*(.+)$", read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return names[0].strip() if names else None


def _gpu() -> str | None:
    """Return the name of a discrete NVIDIA GPU, from its driver."""
    for path in glob("/proc/driver/nvidia/gpus/*/information"):
        if found := re.search(r"^Model:\s*(.+)$", read_text(path) or "", re.MULTILINE):
            return found[1].strip()
    return None
