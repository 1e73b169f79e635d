"""The devices that can be emulated: what their attributes tell."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class DeviceFacts:
    name: str
    compute_capability: tuple[int, int]
    sm_count: int
    memory_bytes: int
    integrated: bool
    pageable_access: bool
    driver_version: int  # 12060 for 12.6
    dla_cores: int


# Names and counts as the boards' own tools give them; they stand for the kinds, not for every detail of a board.
DEVICES = {
    "orin-nano": DeviceFacts(
        name="Orin",
        compute_capability=(8, 7),
        sm_count=8,
        memory_bytes=8 * GIB,
        integrated=True,
        pageable_access=False,
        driver_version=12060,
        dla_cores=0,
    ),
    "orin-agx": DeviceFacts(
        name="Orin",
        compute_capability=(8, 7),
        sm_count=16,
        memory_bytes=64 * GIB,
        integrated=True,
        pageable_access=False,
        driver_version=12060,
        dla_cores=2,
    ),
    "thor": DeviceFacts(
        name="NVIDIA Thor",
        compute_capability=(11, 0),
        sm_count=20,
        memory_bytes=128 * GIB,
        integrated=True,
        pageable_access=True,
        driver_version=13000,
        dla_cores=0,
    ),
    "discrete": DeviceFacts(
        name="NVIDIA RTX A2000",
        compute_capability=(8, 6),
        sm_count=26,
        memory_bytes=12 * GIB,
        integrated=False,
        pageable_access=False,
        driver_version=13000,
        dla_cores=0,
    ),
}
