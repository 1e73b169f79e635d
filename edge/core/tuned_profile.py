"""Tuned profile: measurements of one engine on one machine, `profiles/NAME.json` in the state directory.

`edge tune` writes it; `max-q`, `max-p` and the governor read it. A figure that was not measured is None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from edge.core.errors import EdgeError
from edge.core.files import write_atomic
from edge.core.redaction import one_line
from edge.core.validation import Table

VERSION = 1
_SAME_RATE = 0.99  # of the highest rate
_NEXT_STEP = "measure it here: edge tune CONFIG"
_MAX_REASON = 300  # characters


class _ProfileTable(Table):
    """Table of a profile; keys of a newer version are ignored."""

    model_config = ConfigDict(extra="ignore")


class OperatingPoint(_ProfileTable):
    """One way to run the engine, and its figures over the whole pipeline in steady state."""

    power_mode: str | None  # the board's name of it; None: the board has no modes
    precision: str
    max_batch: int = Field(ge=1)
    max_wait_ms: float = Field(ge=0)
    lanes: int = Field(ge=1)
    device: str  # gpu, dla0, dla1, cpu
    images_per_s: float | None = Field(default=None, gt=0)
    latency_p50_ms: float | None = Field(
        default=None, gt=0
    )  # from capture until the result is ready to be sent; p99 likewise
    latency_p99_ms: float | None = Field(default=None, gt=0)
    power_w: float | None = Field(default=None, gt=0)  # total of the board at `images_per_s`
    idle_w: float | None = Field(default=None, gt=0)  # total of the board in this mode without frames
    energy_j_per_image: float | None = Field(default=None, gt=0)
    temperature_c: float | None = None  # hottest sensor at the end
    is_throttled: bool | None = None


class Machine(_ProfileTable):
    """Board, release and engine that a profile is valid for."""

    board: str
    l4t: str | None
    engine: str  # key of its files and flags


class TunedProfile(_ProfileTable):
    """Measurements of one engine on one machine."""

    v: Literal[1] = 1
    machine: Machine
    engine_label: str  # for people: trt/int8/3f9c…
    made_at: str  # UTC
    target_p99_ms: float | None = Field(default=None, gt=0)
    is_saturated: bool = False  # more frames were offered than it could process: its rates are the board's maximum
    points: tuple[OperatingPoint, ...] = ()
    max_q: OperatingPoint | None = None  # least energy per image within the target
    max_p: OperatingPoint | None = None  # most images/s within the target

    def of(self, *, precision: str, lanes: int, device: str) -> TunedProfile:
        """Return the profile with only the points of these settings."""
        kept = [each for each in self.points if (each.precision, each.lanes, each.device) == (precision, lanes, device)]
        return self.model_copy(update={"points": tuple(kept)})


@dataclass(frozen=True)
class ProfileLookup:
    """A profile, or the reason why there is none."""

    profile: TunedProfile | None
    reason: str | None = None


def profile_path(state_dir: Path, name: str) -> Path:
    """Return the path of a model's profile."""
    return state_dir / "profiles" / (re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") + ".json")


def read_profile(state_dir: Path, name: str, machine: Machine) -> ProfileLookup:
    """Read a model's profile; one that is unreadable, or of another machine or engine, counts as none."""
    path = profile_path(state_dir, name)
    found = _read(path)
    if found.profile is not None and found.profile.machine != machine:
        return ProfileLookup(None, f"{path} was measured {_difference(found.profile.machine, machine)}; {_NEXT_STEP}")
    return found


def newest_profile(state_dir: Path, board: str, l4t: str | None) -> TunedProfile | None:
    """Return the newest profile of this board and release, whatever its engine; None if there is none."""
    found = [profile for path in sorted((state_dir / "profiles").glob("*.json")) if (profile := _read(path).profile)]
    here = [each for each in found if (each.machine.board, each.machine.l4t) == (board, l4t)]
    return max(here, key=lambda profile: profile.made_at, default=None)


def _read(path: Path) -> ProfileLookup:
    try:
        return ProfileLookup(TunedProfile.model_validate_json(path.read_bytes()))
    except FileNotFoundError:
        return ProfileLookup(None, f"{path} does not exist; {_NEXT_STEP}")
    except OSError as error:
        return ProfileLookup(None, f"{path} cannot be read ({error.strerror}); {_NEXT_STEP}")
    except ValidationError as error:
        reason = one_line(" ".join(str(error).split()))[:_MAX_REASON]
        return ProfileLookup(None, f"{path} is not a profile of version {VERSION} ({reason}); {_NEXT_STEP}")


def _difference(there: Machine, here: Machine) -> str:
    if there.board != here.board:
        return f"on {there.board}; this is {here.board}"
    if there.l4t != here.l4t:
        return f"with L4T {there.l4t}; this is {here.l4t}"
    return f"with engine {there.engine}; {here.engine} is served"


def write_profile(profile: TunedProfile, state_dir: Path, name: str) -> Path:
    """Write a profile in place of the previous one; return its path."""
    path = profile_path(state_dir, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Mode 644, as the service reads what a user's `edge tune` wrote.
        write_atomic(path, profile.model_dump_json(indent=1).encode() + b"\n", durable=True, mode=0o644)
    except OSError as error:
        raise EdgeError(
            f"{path} cannot be written ({error.strerror}); wanted a folder that this user can write to, see --state-dir"
        ) from None
    return path


def measured_modes(profile: TunedProfile | None) -> Mapping[str, str]:
    """Return the measured power modes of `max-q` and `max-p`; empty without a profile."""
    marked = {} if profile is None else {"max-q": profile.max_q, "max-p": profile.max_p}
    return {name: point.power_mode for name, point in marked.items() if point is not None and point.power_mode}


def max_q(points: Iterable[OperatingPoint], target_p99_ms: float | None) -> OperatingPoint | None:
    """Return the point of least energy per image within the target; None if there is none."""
    within = [each for each in points if _within(each, target_p99_ms) and each.energy_j_per_image is not None]
    return min(within, key=lambda each: (_or_worst(each.energy_j_per_image), -(each.images_per_s or 0)), default=None)


def max_p(points: Iterable[OperatingPoint], target_p99_ms: float | None) -> OperatingPoint | None:
    """Return the point of most images/s within the target, of equals the one of least latency; None if there is none.

    Where cameras set the rate, all points that keep up have the same one except for noise.
    """
    within = [each for each in points if _within(each, target_p99_ms) and each.images_per_s is not None]
    most = max((each.images_per_s or 0 for each in within), default=0)
    equals = [each for each in within if (each.images_per_s or 0) >= _SAME_RATE * most]
    return min(
        equals, key=lambda each: (_or_worst(each.latency_p99_ms), _or_worst(each.energy_j_per_image)), default=None
    )


def _within(point: OperatingPoint, target_p99_ms: float | None) -> bool:
    if point.is_throttled:
        return False
    return target_p99_ms is None or _or_worst(point.latency_p99_ms) <= target_p99_ms


def pareto_front(points: Sequence[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """Return the Pareto front of images/s, p99 latency, power and energy per image.

    Throttled points are excluded. A figure that was not measured counts as the worst.
    """
    steady = [each for each in points if not each.is_throttled]
    return tuple(each for each in steady if not any(_beats(other, each) for other in steady))


def _beats(one: OperatingPoint, other: OperatingPoint) -> bool:
    pairs = list(zip(_costs(one), _costs(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _costs(point: OperatingPoint) -> tuple[float, ...]:
    return (
        -(point.images_per_s or 0.0),
        *map(_or_worst, (point.latency_p99_ms, point.power_w, point.energy_j_per_image)),
    )


def _or_worst(value: float | None) -> float:
    return math.inf if value is None else value
