"""What power rails are, and which of them make up the total; pure, by the labels that drivers give."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["input", "part", "carrier", "processor", "gpu", "unknown"]

# Labels that name no rail: channels without a shunt, and the chip's own sum, which would count everything twice.
NO_RAILS = frozenset({"", "NC", "sum of shunt voltages"})

_TX2_CARRIER = frozenset({"VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS", "VDD_3V3_IO_SLP", "VDD_1V8_IO", "VDD_3V3_SYS_M2"})


@dataclass(frozen=True, slots=True)
class Rail:
    """One measured rail."""

    name: str
    kind: Kind
    part_of: str | None  # the rail that holds this one's power already
    side: Literal["upstream", "downstream"] | None  # of its regulator; None where the documents do not say
    told: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Total:
    """Which rails are added up to the power of the board, or of its processors."""

    name: str
    rails: tuple[str, ...]
    # Where the documents leave open whether a rail is counted twice: the sum without it.
    alternative: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """What holds for boards with these rails."""

    total: tuple[str, ...]  # what is added up; all of them have to be there
    name: str | None  # of the total; None: its rails joined by +
    told: str  # what each rail of the total is
    side: Literal["upstream", "downstream"] | None = None
    alternative: tuple[str, ...] | None = None
    takes_all: bool = False  # every other module rail is a part of the total

    def fits(self, names: Collection[str]) -> bool:
        return all(name in names for name in self.total)


# The first row whose rails are all there holds.
_LAYOUTS = (
    _Layout(("POM_5V_IN",), "POM_5V_IN", "the module's 5 V input", "upstream", takes_all=True),  # Nano, TX1
    # TX2, Xavier NX, Orin NX and Nano.
    _Layout(("VDD_IN",), "VDD_IN", "the module's input", "upstream", takes_all=True),
    # Thor: its three module rails do not add up to the module.
    _Layout(("VIN",), "VIN (carrier included)", "the input of module and carrier", "upstream", takes_all=True),
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
    """Return what makes up the total of a module's rails; None where there are none.

    A rail that lies within another, or outside the module, is not added to it.
    """
    layout = _layout(names)
    if layout is not None:
        return Total(layout.name or "+".join(layout.total), layout.total, layout.alternative)
    added = tuple(sorted(name for name in names if name not in _TX2_CARRIER))
    return Total("+".join(added), added) if added else None


def rail_of(name: str, names: Collection[str]) -> Rail:
    """Tell what a module's rail is, among the names of all of them."""
    if name in _TX2_CARRIER:
        return Rail(name, "carrier", None, None, "on the carrier board, outside the module")
    layout = _layout(names)
    if layout is None:
        return Rail(name, "unknown", None, None, "rail of an unknown board")
    if name == "VIN" != layout.total[0]:
        return Rail(name, "carrier", None, None, "the input of module and carrier, and not in the total")
    if name in layout.total:
        unsure = layout.alternative is not None and name not in layout.alternative
        told = f"{layout.told}; perhaps within another" if unsure else layout.told
        return Rail(name, "input", None, layout.side, told)
    if layout.takes_all:
        return Rail(name, "part", layout.total[0], None, f"part of {layout.total[0]}")
    return Rail(name, "unknown", None, None, "not among this board's known rails, and not in the total")


def _layout(names: Collection[str]) -> _Layout | None:
    return next((layout for layout in _LAYOUTS if layout.fits(names)), None)
