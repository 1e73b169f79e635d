"""Emulated boards: identity, power rails, temperatures, loads and clocks.

Layout and labels are of the boards and releases named; the readings are plausible ones of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.support.emulated_boards.described import EmulatedBoard, Monitor
from tests.support.emulated_boards.tree import write_board

XAVIER_RAILS = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
ORIN_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
ORIN_BRAKES = ("cpu-throttle-alert", "gpu-throttle-alert", "cv0-throttle-alert", "pwm-fan", "hot-surface-alert")
ORIN_ZONES: Mapping[str, int | None] = {
    "cpu-thermal": 49_500, "gpu-thermal": 47_250, "cv0-thermal": -256_000, "cv1-thermal": None, "cv2-thermal": None,
    "soc0-thermal": 48_000, "soc1-thermal": 47_800, "soc2-thermal": 46_900, "tj-thermal": 49_500,
}  # fmt: skip
JETPACK_4_ZONES: Mapping[str, int | None] = {
    "AO-therm": 38_000, "CPU-therm": 41_500, "GPU-therm": 39_000, "AUX-therm": 38_500, "thermal-fan-est": 40_000,
    "PMIC-Die": 100_000, "Tboard_tegra": 36_000, "Tdiode_tegra": 37_250,
}  # fmt: skip

ORIN_NANO = EmulatedBoard(
    label="Jetson Orin Nano 8GB, L4T 36.3.0 (JetPack 6.0)",
    model="NVIDIA Jetson Orin Nano Developer Kit",
    compatible=("nvidia,p3768-0000+p3767-0003", "nvidia,p3767-0003", "nvidia,tegra234"),
    release=("36", "3.0"),
    core="36.3.0-20240506102626",
    tensorrt=("libnvinfer8", "8.6.2.3-1+cuda12.2"),
    cuda=("cuda-cudart-12-2", "12.2.140-1"),
    monitors=(
        Monitor("ina3221", "1-0040", (("VDD_IN", 5016, 1500), ("VDD_CPU_GPU_CV", 5016, 400), ("VDD_SOC", 5016, 300))),
    ),
    zones_mc=ORIN_ZONES,
    gpu="platform/bus@0/17000000.gpu",
    gpu_node="gpu",
    gpu_load=620,
    gpu_hz=624_750_000,
    emc_hz=2_133_000_000,
    emc_activity_khz=533_250,
    brakes=ORIN_BRAKES,
    has_counters=True,
    fan=(102, 2400),
    module="Jetson Orin Nano 8GB",
    sku="p3767-0003",
    soc="tegra234",
    l4t="36.3.0",
    jetpack="6.0",
    total="VDD_IN",
    total_rails=("VDD_IN",),
)

BOARDS: Mapping[str, EmulatedBoard] = {
    "tx2": EmulatedBoard(
        label="Jetson TX2, L4T 32.7.6 (JetPack 4.6.6)",
        model="quill",
        compatible=("nvidia,p2597-0000+p3310-1000", "nvidia,quill", "nvidia,tegra186"),
        release=("32", "7.6"),
        core="32.7.6-20241104234540",
        tensorrt=("libnvinfer8", "8.2.1-1+cuda10.2"),
        cuda=("cuda-cudart-10-2", "10.2.300-1"),
        monitors=(
            Monitor(
                "ina3221x",
                "0-0040",
                (("VDD_SYS_GPU", 19112, 112), ("VDD_SYS_SOC", 19112, 48), ("VDD_4V0_WIFI", 4744, 4)),
            ),
            Monitor(
                "ina3221x", "0-0041", (("VDD_IN", 19072, 420), ("VDD_SYS_CPU", 19088, 80), ("VDD_SYS_DDR", 4768, 290))
            ),
            Monitor(
                "ina3221x",
                "0-0042",
                (("VDD_MUX", 19064, 520), ("VDD_5V0_IO_SYS", 4968, 92), ("VDD_3V3_SYS", 3320, 100)),
            ),
            Monitor(
                "ina3221x",
                "0-0043",
                (("VDD_3V3_IO_SLP", 3320, 8), ("VDD_1V8_IO", 1784, 172), ("VDD_3V3_SYS_M2", 3328, 4)),
            ),
        ),
        zones_mc=JETPACK_4_ZONES,
        gpu="17000000.gp10b",
        gpu_node="gp10b",
        gpu_load=402,
        gpu_hz=1_122_000_000,
        fan=(80, 3100),
        module="Jetson TX2",
        sku="p3310-1000",
        soc="tegra186",
        l4t="32.7.6",
        jetpack="4.6.6",
        total="VDD_IN",
        total_rails=("VDD_IN",),
    ),
    "xavier-nx": EmulatedBoard(
        label="Jetson Xavier NX, L4T 35.4.1 (JetPack 5.1.2)",
        model="NVIDIA Jetson Xavier NX Developer Kit",
        compatible=("nvidia,p3509-0000+p3668-0000", "nvidia,p3668-0000", "nvidia,tegra194"),
        release=("35", "4.1"),
        core="35.4.1-20230801124926",
        tensorrt=("libnvinfer8", "8.5.2-1+cuda11.4"),
        cuda=("cuda-cudart-11-4", "11.4.298-1"),
        monitors=(
            Monitor(
                "ina3221", "1-0040", (("VDD_IN", 4960, 1100), ("VDD_CPU_GPU_CV", 4952, 260), ("VDD_SOC", 4960, 240))
            ),
        ),
        zones_mc={
            "AO-therm": 40_000,
            "CPU-therm": 41_500,
            "GPU-therm": 40_500,
            "AUX-therm": 40_000,
            "PMIC-Die": 50_000,
        },
        gpu="17000000.gv11b",
        gpu_node="gv11b",
        gpu_load=180,
        gpu_hz=803_250_000,
        emc_hz=1_600_000_000,
        emc_activity_khz=160_000,
        dlas={"platform/host1x/15880000.nvdla0": "active", "platform/host1x/158c0000.nvdla1": "suspended"},
        fan=(64, 1900),
        module="Jetson Xavier NX",
        sku="p3668-0000",
        soc="tegra194",
        l4t="35.4.1",
        jetpack="5.1.2",
        total="VDD_IN",
        total_rails=("VDD_IN",),
    ),
    "agx-xavier": EmulatedBoard(
        label="Jetson AGX Xavier, L4T 32.7.6 (JetPack 4.6.6)",
        model="Jetson-AGX",
        compatible=("nvidia,p2822-0000+p2888-0001", "nvidia,tegra194"),
        release=("32", "7.6"),
        core="32.7.6-20241104234540",
        tensorrt=("libnvinfer8", "8.2.1-1+cuda10.2"),
        cuda=("cuda-cudart-10-2", "10.2.300-1"),
        monitors=(
            Monitor("ina3221x", "1-0040", (("GPU", 19112, 40), ("CPU", 19112, 56), ("SOC", 19112, 96))),
            Monitor("ina3221x", "1-0041", (("CV", 19128, 8), ("VDDRQ", 4872, 120), ("SYS5V", 4856, 340))),
        ),
        zones_mc=JETPACK_4_ZONES,
        gpu="17000000.gv11b",
        gpu_node="gv11b",
        gpu_load=0,
        gpu_hz=114_750_000,
        emc_hz=1_331_200_000,
        emc_activity_khz=26_624,
        fan=(0, 0),
        memory_kb=32_000_000,
        module="Jetson AGX Xavier",
        sku="p2888-0001",
        soc="tegra194",
        l4t="32.7.6",
        jetpack="4.6.6",
        total="+".join(XAVIER_RAILS),
        total_rails=XAVIER_RAILS,
    ),
    "orin-nano": ORIN_NANO,
    "orin-nano-super": replace(
        ORIN_NANO,
        label="Jetson Orin Nano 8GB super, L4T 36.4.7 (JetPack 6.2.1)",
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        release=("36", "4.7"),
        core="36.4.7-20250918154033",
        tensorrt=("libnvinfer10", "10.3.0.30-1+cuda12.5"),
        cuda=("cuda-cudart-12-6", "12.6.68-1"),
        gpu_hz=1_020_000_000,
        sku="p3767-0005",
        l4t="36.4.7",
        jetpack="6.2.1",
    ),
    "orin-nx": replace(
        ORIN_NANO,
        label="Jetson Orin NX 16GB, L4T 36.4.0 (JetPack 6.1)",
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        compatible=("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
        release=("36", "4.0"),
        core="36.4.0-20240912212859",
        tensorrt=("libnvinfer10", "10.3.0.30-1+cuda12.5"),
        cuda=("cuda-cudart-12-6", "12.6.68-1"),
        dlas={"platform/bus@0/13e00000.host1x/15880000.nvdla0": "suspended"},
        memory_kb=16_000_000,
        module="Jetson Orin NX 16GB",
        sku="p3767-0000",
        l4t="36.4.0",
        jetpack="6.1",
    ),
    "agx-orin": replace(
        ORIN_NANO,
        label="Jetson AGX Orin 64GB, L4T 35.6.0 (JetPack 5.1.4)",
        model="Jetson AGX Orin Developer Kit",
        compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
        release=("35", "6.0"),
        core="35.6.0-20240828090435",
        tensorrt=("libnvinfer8", "8.5.2-1+cuda11.4"),
        cuda=("cuda-cudart-11-4", "11.4.298-1"),
        monitors=(
            Monitor(
                "ina3221",
                "1-0040",
                (("VDD_GPU_SOC", 19816, 160), ("VDD_CPU_CV", 19808, 40), ("VIN_SYS_5V0", 5008, 624)),
            ),
            Monitor(
                "ina3221", "1-0041", (("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 19824, 32), ("NC", 0, 0)), disabled=("NC",)
            ),
        ),
        gpu="17000000.ga10b",
        gpu_node="ga10b",
        gpu_hz=306_000_000,
        dlas={"platform/host1x/15880000.nvdla0": "suspended", "platform/host1x/158c0000.nvdla1": "suspended"},
        memory_kb=64_000_000,
        module="Jetson AGX Orin 64GB",
        sku="p3701-0005",
        l4t="35.6.0",
        jetpack="5.1.4",
        total="+".join(ORIN_RAILS),
        total_rails=ORIN_RAILS,
        other_rails=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ),
    "thor": EmulatedBoard(
        label="Jetson AGX Thor, L4T 38.4.0 (JetPack 7.1)",
        model="NVIDIA Jetson AGX Thor Developer Kit",
        compatible=("nvidia,p4071-0000+p3834-0008", "nvidia,tegra264"),
        release=("38", "4.0"),
        core="38.4.0-20251230160601",
        tensorrt=("libnvinfer10", "10.13.3.9-1+cuda13.0"),
        cuda=("cuda-cudart-13-0", "13.0.48-1"),
        monitors=(
            Monitor(
                "ina3221",
                "1-0040",
                (("VDD_GPU", 12040, 163), ("VDD_CPU_SOC_MSS", 12040, 489), ("VIN_SYS_5V0", 5088, 1107)),
            ),
            Monitor("ina238", "2-0044", (("VIN", 20000, 989),)),
        ),
        zones_mc={
            "cpu-thermal": 45_000,
            "gpu-thermal": None,
            "soc012-thermal": 44_500,
            "soc345-thermal": 44_000,
            "tj-thermal": 45_000,
        },
        gpu="platform/gpu-gpc-0",
        gpu_node="",
        gpu_class="gpu-gpc-0",
        gpu_load=None,
        gpu_hz=1_575_000_000,
        emc_hz=4_266_000_000,
        brakes=("cpu-throttle-alert", "gpu-throttle-alert", "devfreq-gpu-gpc-0", "cpufreq-cpu0", "pwm-fan"),
        has_counters=True,
        fan=(77, 3630),
        memory_kb=125_000_000,
        module="Jetson Thor T5000",
        sku="p3834-0008",
        soc="tegra264",
        l4t="38.4.0",
        jetpack="7.1",
        total="VIN (carrier included)",
        total_rails=("VIN",),
    ),
}


def build(name: str, folder: Path) -> Path:
    """Write a board's files below `folder`, which is then its root; return it."""
    write_board(BOARDS[name], folder)
    return folder
