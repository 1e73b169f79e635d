"""Table of the boards' power rails: what each measures and which of them make up the total, by driver label."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Kind = Literal["input", "part", "carrier", "processor", "gpu", "unknown"]

# Labels of no rail: channels without a shunt, and the chip's own sum, which would count everything twice.
NO_RAILS = frozenset({"", "NC", "sum of shunt voltages"})

_TX2_CARRIER = frozenset({"VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS", "VDD_3V3_IO_SLP", "VDD_1V8_IO", "VDD_3V3_SYS_M2"})


@dataclass(frozen=True, slots=True)
class Rail:
    """One measured rail."""

    name: str
    kind: Kind
    part_of: str | None  # the rail that already includes this one's power
    side: Literal["upstream", "downstream"] | None  # of its regulator; None if undocumented
    description: str


@dataclass(frozen=True, slots=True)
class Total:
    """The rails whose sum is the power of the board or of its processors."""

    name: str
    rails: tuple[str, ...]
    # The sum without a rail that may be counted twice, as far as is documented.
    alternative: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Properties of boards with these rails."""

    total: tuple[str, ...]  # the rails added up; all must be present
    name: str | None  # of the total; None: its rails joined by +
    description: str  # of each rail of the total
    side: Literal["upstream", "downstream"] | None = None
    alternative: tuple[str, ...] | None = None
    includes_all: bool = False  # every other module rail is a part of the total

    def fits(self, names: Collection[str]) -> bool:
        return all(name in names for name in self.total)


# The first row whose rails are all present applies.
_LAYOUTS = (
    _Layout(("POM_5V_IN",), "POM_5V_IN", "the module's 5 V input", "upstream", includes_all=True),  # Nano, TX1
    # TX2, Xavier NX, Orin NX and Nano.
    _Layout(("VDD_IN",), "VDD_IN", "the module's input", "upstream", includes_all=True),
    # Thor: its three module rails do not add up to the module.
    _Layout(("VIN",), "VIN (carrier included)", "the input of module and carrier", "upstream", includes_all=True),
    _Layout(  # AGX Xavier
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), None, "input of its regulator, losses included", "upstream"
    ),
    _Layout(  # AGX Orin: whether the last is fed from VIN_SYS_5V0 is not documented
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"),
        None,
        "rail of the module",
        alternative=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ),
)


def is_rail(label: str) -> bool:
    return label not in NO_RAILS


def total_of(names: Collection[str]) -> Total | None:
    """Return the rails that make up a module's total; None if there are none.

    A rail included in another, or outside the module, is not added.
    """
    layout = _layout(names)
    if layout is not None:
        return Total(layout.name or "+".join(layout.total), layout.total, layout.alternative)
    added = tuple(sorted(name for name in names if name not in _TX2_CARRIER))
    return Total("+".join(added), added) if added else None


def rail_of(name: str, names: Collection[str]) -> Rail:
    """Return what a rail measures, given the names of all rails of the module."""
    if name in _TX2_CARRIER:
        return Rail(name, "carrier", None, None, "on the carrier board, outside the module")
    layout = _layout(names)
    if layout is None:
        return Rail(name, "unknown", None, None, "rail of an unknown board")
    if name == "VIN" != layout.total[0]:
        return Rail(name, "carrier", None, None, "the input of module and carrier, not in the total")
    if name in layout.total:
        unsure = layout.alternative is not None and name not in layout.alternative
        description = f"{layout.description}; perhaps included in another" if unsure else layout.description
        return Rail(name, "input", None, layout.side, description)
    if layout.includes_all:
        return Rail(name, "part", layout.total[0], None, f"part of {layout.total[0]}")
    return Rail(name, "unknown", None, None, "not a known rail of this board, not in the total")


def _layout(names: Collection[str]) -> _Layout | None:
    return next((layout for layout in _LAYOUTS if layout.fits(names)), None)
