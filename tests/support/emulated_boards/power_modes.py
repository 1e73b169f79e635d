"""The power modes of emulated boards: their nvpmodel.conf, and programs that answer as nvpmodel and jetson_clocks do.

Values are those that public sources tell; the layout of the text is ours. What no source tells is left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

TOOLS = Path(__file__).with_name("tools")


@dataclass(frozen=True)
class Row:
    """One mode; a cap of 0 is "no cap", None is not told."""

    id: int
    name: str
    cores: tuple[int, ...] = ()  # online; empty where not told
    cpu_mhz: float | tuple[float, ...] | None = None  # of all clusters, or of each
    gpu_mhz: float | None = None
    emc_mhz: float | None = None
    dla_mhz: float | tuple[float, float] | None = None  # of both cores, or of each
    mask: int | None = None


@dataclass(frozen=True)
class PowerBoard:
    """A board's power modes, by board and release."""

    title: str
    conf: str
    rows: tuple[Row, ...]
    default: int
    clusters: Mapping[str, int] = field(default_factory=dict)  # PARAM of the clock → its first core
    cores: int = 0
    gpu: str = ""
    emc: str = "/sys/kernel/nvpmodel_emc_cap/emc_iso_cap"
    dlas: Mapping[str, str] = field(default_factory=dict)
    mask: tuple[str, str, str] | None = None  # PARAM, argument, path
    names_core_0: bool = True
    tight: bool = False  # <PARAM … without a blank, as NVIDIA's files of the super modes have it
    next_kernel: bool = False  # only the twins *_KNEXT name a path


_ORIN_DLA = "/sys/devices/platform/bus@0/13e00000.host1x/15880000.nvdla0/clk_cap/dla0_core"
_ORIN_DLAS = {"DLA0_CORE": _ORIN_DLA, "DLA1_CORE": _ORIN_DLA.replace("15880000.nvdla0", "158c0000.nvdla1")}
_orin = partial(
    PowerBoard,
    gpu="/sys/devices/platform/17000000.gpu/devfreq_dev/max_freq",
    emc="/sys/kernel/nvpmodel_clk_cap/emc",
    mask=("TPC_POWER_GATING", "TPC_PG_MASK", "/sys/devices/platform/gpu.0/tpc_pg_mask"),
    next_kernel=True,
)
_xavier = partial(
    PowerBoard,
    gpu="/sys/devices/17000000.gv11b/devfreq/17000000.gv11b/max_freq",
    dlas={"DLA_CORE": "/sys/kernel/nvpmodel_emc_cap/nafll_dla"},
    mask=("TPC_POWER_GATING", "TPC_PG_MASK", "/sys/devices/gpu.0/tpc_pg_mask"),
)
_ALL_4, _ALL_6, _ALL_8, _ALL_12 = (tuple(range(count)) for count in (4, 6, 8, 12))

BOARDS: Mapping[str, PowerBoard] = {
    "tx2": PowerBoard(
        "Jetson TX2, L4T 32",
        "nvpmodel_t186.conf",
        (
            Row(0, "MAXN", _ALL_6, 0, 0, 0),
            Row(1, "MAXQ", (0, 3, 4, 5), (1200, 0), 850, 1331.2),
            Row(2, "MAXP_CORE_ALL", _ALL_6, 1400, 1120, 1600),
            Row(3, "MAXP_CORE_ARM", (0, 3, 4, 5), (2000, 0), 1120, 1600),
            Row(4, "MAXP_CORE_DENVER", (0, 1), (345.6, 2035), 1120, 1600),
        ),
        default=3,
        clusters={"CPU_A57": 0, "CPU_DENVER": 1},
        cores=6,
        gpu="/sys/devices/17000000.gp10b/devfreq/17000000.gp10b/max_freq",
        names_core_0=False,
    ),
    "xavier-nx": _xavier(
        "Jetson Xavier NX, L4T 32.6 (JetPack 4.6)",
        "nvpmodel_t194_p3668.conf",
        (
            Row(0, "15W_2CORE", (0, 1), 1907.2, 1109.25, 1600, 1100.8, 1),
            Row(1, "15W_4CORE", _ALL_4, 1420.8, 1109.25, 1600, 1100.8, 1),
            Row(2, "15W_6CORE", _ALL_6, 1420.8, 1109.25, 1600, 1100.8, 1),
            Row(3, "10W_2CORE", (0, 1), 1497.6, 803.25, 1600, 896, 1),
            Row(4, "10W_4CORE", _ALL_4, 1190.4, 803.25, 1600, 896, 1),
            Row(5, "10W_DESKTOP", _ALL_4, 1907.2, 510, 1600, 896, 1),
            Row(6, "20W_2CORE", (0, 1), 1907.2, 1109.25, 1866, 1100.8, 1),
            Row(7, "20W_4CORE", _ALL_4, 1420.8, 1109.25, 1866, 1100.8, 1),
            Row(8, "20W_6CORE", _ALL_6, 1420.8, 1109.25, 1866, 1100.8, 1),
        ),
        default=5,
        clusters={"CPU_DENVER_0": 0, "CPU_DENVER_1": 2, "CPU_DENVER_2": 4},
        cores=6,
    ),
    "agx-xavier": _xavier(
        "Jetson AGX Xavier, L4T 32",
        "nvpmodel_t194.conf",
        (
            Row(0, "MAXN", _ALL_8, 0, 0, 0, 0, 0),
            Row(1, "10W", (0, 1), 1200, 520, 1065.6, 550, 5),
            Row(2, "15W", _ALL_4, 1200, 670, 1331.2, 750, 0),
            Row(3, "30W_ALL", _ALL_8, 1200, 900, 1600, 1050, 0),
            Row(4, "30W_6CORE", _ALL_6, 1450, 900, 1600, 1050, 0),
            Row(5, "30W_4CORE", _ALL_4, 1780, 900, 1600, 1050, 0),
            Row(6, "30W_2CORE", (0, 1), 2100, 900, 1600, 1050, 0),
            Row(7, "15W_DESKTOP", _ALL_4, 2188.8, 670, 1331.2, 115.2, 0),
        ),
        default=2,
        clusters={"CPU_DENVER_0": 0, "CPU_DENVER_1": 2, "CPU_DENVER_2": 4, "CPU_DENVER_3": 6},
        cores=8,
    ),
    "orin-nano": _orin(
        "Jetson Orin Nano 8GB, L4T 36 (JetPack 6)",
        "nvpmodel_p3767_0003.conf",
        (Row(0, "15W", _ALL_6, 0, 0, 0, None, 240), Row(1, "7W", _ALL_4, 960, 408, 2133, None, 252)),
        default=0,
        clusters={"CPU_A78_0": 0, "CPU_A78_1": 4},
        cores=6,
    ),
    "orin-nano-super": _orin(
        "Jetson Orin Nano 8GB super, L4T 36.4.7 (JetPack 6.2.1); masks from field reports; 7W's caps not told",
        "nvpmodel_p3767_0003_super.conf",
        (
            Row(0, "15W", _ALL_6, 1497.6, 612, 2133, None, 240),
            Row(1, "25W", _ALL_6, 1344, 918, 3199, None, 240),
            Row(2, "MAXN_SUPER", _ALL_6, 0, 0, 0, None, 240),
            Row(3, "7W", mask=252),
        ),
        default=1,
        clusters={"CPU_A78_0": 0, "CPU_A78_1": 4},
        cores=6,
        tight=True,
    ),
    "orin-nx": _orin(
        "Jetson Orin NX 16GB, L4T 36 (JetPack 6)",
        "nvpmodel_p3767_0000.conf",
        (
            Row(0, "MAXN", _ALL_8, 0, 0, 0, 0, 240),
            Row(1, "10W", _ALL_4, 1190.4, 612, 2133, (153.6, 115), 252),
            Row(2, "15W", _ALL_4, 1651.2, 612, 0, 614.4, 252),
            Row(3, "25W", _ALL_8, 1497.6, 408, 0, 614.4, 240),
        ),
        default=2,
        clusters={"CPU_A78_0": 0, "CPU_A78_1": 4},
        cores=8,
        dlas=_ORIN_DLAS,
    ),
    "orin-nx-super": _orin(
        "Jetson Orin NX 16GB super, L4T 36.4 (JetPack 6.2)",
        "nvpmodel_p3767_0000_super.conf",
        (
            Row(0, "MAXN_SUPER", _ALL_8, 0, 0, 0, 0, 240),
            Row(1, "10W", _ALL_4, 1190.4, 612, 2133, (153.6, 115), 252),
            Row(2, "15W", _ALL_4, 1420.8, 612, 0, (614.4, 115), 252),
            Row(3, "25W", _ALL_8, 1497.6, 408, 0, 614.4, 240),
            Row(4, "40W", _ALL_8, 1497.6, 1173, 0, 908.8, 240),
        ),
        default=4,
        clusters={"CPU_A78_0": 0, "CPU_A78_1": 4},
        cores=8,
        dlas=_ORIN_DLAS,
        tight=True,
    ),
    "agx-orin": _orin(
        "Jetson AGX Orin 64GB, L4T 36 (JetPack 6)",
        "nvpmodel_p3701_0000.conf",
        (
            Row(0, "MAXN", _ALL_12, 0, 0, 0, 0, 0),
            Row(1, "MODE_15W", _ALL_4, 1113.6, 408, 2133, 614.4, 248),
            Row(2, "MODE_30W", _ALL_8, 1728, 612, 0, 1369.6, 240),
            Row(3, "MODE_50W", _ALL_12, 1497.6, 816, 0, 1369.6, 0),
        ),
        default=2,
        clusters={"CPU_A78_0": 0, "CPU_A78_1": 4, "CPU_A78_2": 8},
        cores=12,
        dlas=_ORIN_DLAS,
    ),
    "thor": PowerBoard(
        "Jetson AGX Thor T5000, L4T 38 (JetPack 7); clocks and cores of the modes not told",
        "nvpmodel_p3834_0008.conf",
        (Row(0, "MAXN", mask=512), Row(1, "120W", mask=512), Row(2, "90W", mask=17353), Row(3, "70W", mask=17353)),
        default=1,
        # The names of parameter and argument are ours; the file is what sources tell.
        mask=("GPU_POWER_GATING", "GPU_PG_MASK", "/opt/nvidia/l4t-gpusetup/gpu_pg_mask"),
    ),
}


def write_power_modes(root: Path, board: str, mode: int | None = None) -> PowerBoard:
    """Write a board's configuration and status below `root`, in its default mode unless told another."""
    described = BOARDS[board]
    folder = root / "etc/nvpmodel"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / described.conf).write_text(conf_text(described), encoding="utf-8")
    link = root / "etc/nvpmodel.conf"
    link.unlink(missing_ok=True)
    link.symlink_to(f"/etc/nvpmodel/{described.conf}")  # absolute, as on boards: it must be followed below the root
    status = root / "var/lib/nvpmodel/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(f"pmode:{described.default if mode is None else mode:04d}\n", encoding="utf-8")
    return described


def install_tools(folder: Path) -> str:
    """Put nvpmodel and jetson_clocks into a folder, and return a PATH that begins with it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("nvpmodel", "jetson_clocks"):
        tool = folder / name
        source = (TOOLS / f"{name}.py").read_text(encoding="utf-8")
        tool.write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
        tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def conf_text(board: PowerBoard) -> str:
    """Return the text of a board's nvpmodel.conf."""
    lines = [f"# {board.title}: values of the board, text of our own", *_params(board)]
    for row in board.rows:
        lines += ["", f"< POWER_MODEL ID={row.id} NAME={row.name} >", *_settings(board, row)]
    return "\n".join([*lines, "", "# mandatory", f"< PM_CONFIG DEFAULT={board.default} >", ""])


def _params(board: PowerBoard) -> list[str]:
    start = "<" if board.tight else "< "
    named = range(0 if board.names_core_0 else 1, board.cores)
    lines = []
    if board.cores:
        lines += ["", "< PARAM TYPE=FILE NAME=CPU_ONLINE >"]
        lines += [f"CORE_{core} /sys/devices/system/cpu/cpu{core}/online" for core in named]
    if board.mask:
        lines += ["", f"< PARAM TYPE=FILE NAME={board.mask[0]} >", f"{board.mask[1]} {board.mask[2]}"]
    clocks = {
        name: f"/sys/devices/system/cpu/cpu{first}/cpufreq/scaling_max_freq" for name, first in board.clusters.items()
    }
    clocks |= {"GPU": board.gpu} if board.gpu else {}
    clocks |= {"EMC": board.emc} if board.cores else {}
    for name, path in {**clocks, **board.dlas}.items():
        lines += ["", f"{start}PARAM TYPE=CLOCK NAME={name} >"]
        lines += [f"{'MAX_FREQ_KNEXT' if board.next_kernel else 'MAX_FREQ'} {path}"]
        lines += [f"MIN_FREQ {path.replace('max_freq', 'min_freq')}"] if "max_freq" in path else []
    return lines


def _settings(board: PowerBoard, row: Row) -> list[str]:
    lines = []
    if row.cores:
        named = range(0 if board.names_core_0 else 1, board.cores)
        lines += [f"CPU_ONLINE CORE_{core} {int(core in row.cores)}" for core in named]
    if board.mask and row.mask is not None:
        lines.append(f"{board.mask[0]} {board.mask[1]} {row.mask}")
    if row.cpu_mhz is not None:
        caps = row.cpu_mhz if isinstance(row.cpu_mhz, tuple) else (row.cpu_mhz,) * len(board.clusters)
        for (name, first), cap in zip(board.clusters.items(), caps, strict=True):
            if first in row.cores:
                lines += [f"{name} MIN_FREQ 0", f"{name} MAX_FREQ {_raw(cap, 1e3)}"]
    if row.gpu_mhz is not None:
        lines += ["GPU MIN_FREQ 0", f"GPU MAX_FREQ {_raw(row.gpu_mhz, 1e6)}"]
    if row.emc_mhz is not None:
        # Older files write 0 for "no cap".
        lines.append(f"EMC MAX_FREQ {_raw(row.emc_mhz, 1e6) if row.emc_mhz or 'clk_cap' in board.emc else 0}")
    if row.dla_mhz is not None:
        caps = row.dla_mhz if isinstance(row.dla_mhz, tuple) else (row.dla_mhz,) * len(board.dlas)
        lines += [f"{name} MAX_FREQ {_raw(cap, 1e6)}" for name, cap in zip(board.dlas, caps, strict=True)]
    return lines


def _raw(cap_mhz: float, per_mhz: float) -> int:
    return round(cap_mhz * per_mhz) if cap_mhz else -1
