"""`precision.json`: how well a model's forms of less precision were measured to agree with FP32, and which may serve.

An entry holds for the very files, the reading of model.toml, and the backend that it was measured with: a device can
lose what another keeps.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from edge.core.errors import ModelError, error_text
from edge.core.files import permissions, write_atomic
from edge.core.validation import Table
from edge.inference.derived_files import derived_paths
from edge.inference.model_variants import ModelFiles, Precision
from edge.inference.runtime_identity import RuntimeIdentity

log = logging.getLogger(__name__)

FILE = "precision.json"
VERSION = 1
MIN_FRAMES = 4  # fewer prove nothing
# Boxes can match one for one while scores are lost, as where boxes and scores share the scale of one quantized tensor.
MAX_SCORE_SHIFT = 0.1


class PrecisionEntry(Table):
    """One measurement."""

    model_config = ConfigDict(extra="ignore")  # of a newer version

    precision: Precision
    against: Precision
    onnx: str  # names, and hashes of what they stood for
    onnx_sha256: str
    file: str
    file_sha256: str
    reading_sha256: str
    backend: str
    library: str
    gpu: str | None
    instructions: str | None
    machine: str
    metric: Literal["f1", "top1"]
    agreement: float = Field(ge=0, le=1)
    measured: dict[str, int | float | None]  # all figures of agreement
    frames: int = Field(ge=1)
    data_sha256: str  # of the frames
    ms: float = Field(gt=0)  # median of an inference of one picture, as the next
    against_ms: float = Field(gt=0)
    truth: dict[str, dict[str, float]] | None = None  # figures by precision, where labels were given
    at: str

    @property
    def runtime(self) -> RuntimeIdentity:
        return RuntimeIdentity(self.backend, self.library, self.gpu, self.instructions, self.machine)

    @property
    def key(self) -> tuple[str | None, ...]:
        """What a newer measurement of the same replaces."""
        return (
            *(self.onnx, self.precision, self.against, self.reading_sha256),
            *(self.backend, self.library, self.gpu, self.instructions, self.machine),
        )


def read_entries(onnx: Path, state_dir: Path) -> list[PrecisionEntry]:
    """Return what is recorded of a model, the newest first; nothing where the file is missing or damaged."""
    newest: dict[tuple[str | None, ...], PrecisionEntry] = {}
    for path in derived_paths(onnx, state_dir, FILE, beside=FILE):
        for entry in _entries(path):
            if entry.onnx == onnx.name and (entry.key not in newest or newest[entry.key].at < entry.at):
                newest[entry.key] = entry
    return sorted(newest.values(), key=lambda entry: entry.at, reverse=True)


def record(entry: PrecisionEntry, onnx: Path, state_dir: Path) -> Path:
    """Keep an entry in place of the one before it; return the file.

    What was measured with another FP32 file of the same name goes: nothing can admit it again.
    """
    for path in (places := derived_paths(onnx, state_dir, FILE, beside=FILE)):
        kept = [
            each
            for each in _entries(path)
            if each.onnx != entry.onnx or (each.onnx_sha256 == entry.onnx_sha256 and each.key != entry.key)
        ]
        document = {"v": VERSION, "entries": [each.model_dump() for each in (*kept, entry)]}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(document, indent=1) + "\n"
            write_atomic(path, text.encode(), durable=True, mode=permissions(onnx))
        except OSError as error:
            reason = f"{path} cannot be written ({error.strerror})"
            log.debug("%s", reason)
        else:
            return path
    raise ModelError(
        f"neither {places[0]} can be written nor is there another place: {reason}; see the folders' rights"
    )


@dataclass(frozen=True)
class Admission:
    """Whether a files may serve here."""

    files: ModelFiles
    entry: PrecisionEntry | None  # what admits it; None for FP32, which needs no proof, and where nothing does
    reason: str | None = None  # in one sentence, why it may not; None: it may


def admitted(
    entries: Sequence[PrecisionEntry], files: ModelFiles, runtime: RuntimeIdentity, min_agreement: float
) -> Admission:
    """Judge a files by the newest entry that was measured with it, here."""
    if files.precision == "fp32":
        return Admission(files, None)
    left = [entry for entry in entries if entry.precision == files.precision and entry.against == "fp32"]
    again = f"verify it here: edge engines verify MODEL --precision {files.precision}"
    if not left:
        return Admission(files, None, f"{files.precision} was not held against fp32 yet; {again}")
    for rule in _RULES:
        fitting = [entry for entry in left if rule.holds(entry, files, runtime)]
        if not fitting:
            return Admission(files, None, f"{rule.tell(max(left, key=_at), runtime)}; {again}")
        left = fitting
    entry = max(left, key=_at)
    return Admission(files, entry, why_not(entry, min_agreement))


def _at(entry: PrecisionEntry) -> str:
    return entry.at


def why_not(entry: PrecisionEntry, min_agreement: float) -> str | None:
    """Return why a measurement is not good enough; None where it is."""
    if entry.frames < MIN_FRAMES:
        return f"{entry.precision} was measured on too few frames: {entry.frames}, wanted {MIN_FRAMES} or more"
    if entry.agreement < min_agreement:
        return (
            f"{entry.precision} agrees with {entry.against} by {entry.metric} {entry.agreement:.3f} on "
            f"{entry.frames} frames, wanted {min_agreement:g} ([accuracy] min_agreement)"
        )
    shift = entry.measured.get("score_shift") or 0.0
    if entry.metric == "f1" and abs(shift) > MAX_SCORE_SHIFT:
        return (
            f"the scores of {entry.precision} are off by {shift:+.3f} in the mean, wanted {MAX_SCORE_SHIFT:g} at most: "
            "thresholds would mean something else"
        )
    return None


@dataclass(frozen=True)
class _Rule:
    """What must be equal, and how it is told that it is not."""

    holds: Callable[[PrecisionEntry, ModelFiles, RuntimeIdentity], bool]
    tell: Callable[[PrecisionEntry, RuntimeIdentity], str]


# In the order in which one that fails explains most.
_RULES = (
    _Rule(
        lambda entry, files, _: entry.onnx_sha256 == files.onnx_sha256,
        lambda entry, _: f"{entry.onnx} has changed since {entry.precision} was verified on {_day(entry)}",
    ),
    _Rule(
        lambda entry, files, _: entry.reading_sha256 == files.reading_sha256,
        lambda entry, _: f"model.toml has changed since {entry.precision} was verified on {_day(entry)}",
    ),
    _Rule(
        lambda entry, _, runtime: entry.backend == runtime.backend,
        lambda entry, runtime: f"{entry.precision} was verified on {entry.backend}, and here runs {runtime.backend}",
    ),
    _Rule(
        lambda entry, files, _: entry.file_sha256 == files.file_sha256,
        lambda entry, _: f"{entry.file} is not the file that was verified on {_day(entry)}",
    ),
    _Rule(
        lambda entry, _, runtime: replace(entry.runtime, machine="") == replace(runtime, machine=""),
        lambda entry, runtime: f"{entry.precision} was verified with {entry.runtime}, and here is {runtime}",
    ),
)


def _day(entry: PrecisionEntry) -> str:
    return entry.at[:10]


def fastest(entries: Sequence[PrecisionEntry], admissions: Sequence[Admission], runtime: RuntimeIdentity) -> Precision:
    """Return the admitted precision that was measured as the fastest on this machine: FP32 where none was faster.

    Each entry's times were taken in turn with those of FP32, so their ratio is what tells; those of another machine
    tell nothing.
    """
    ratios: dict[Precision, float] = {"fp32": 1.0}
    for admission in admissions:
        mine = [entry for entry in entries if admission.reason is None and _measures(entry, admission.files, runtime)]
        if mine:
            newest = max(mine, key=_at)
            ratios[newest.precision] = newest.ms / newest.against_ms
    return min(ratios, key=lambda precision: ratios[precision])


def _measures(entry: PrecisionEntry, files: ModelFiles, runtime: RuntimeIdentity) -> bool:
    same = ModelFiles(entry.precision, entry.onnx_sha256, entry.file_sha256, files.reading_sha256) == files
    return same and entry.against == "fp32" and entry.runtime == runtime


def _entries(path: Path) -> list[PrecisionEntry]:
    """Read a file's entries; those that cannot be read admit nothing."""
    try:
        document = json.loads(path.read_bytes())
        found = document["entries"] if document["v"] == VERSION else []
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("%s cannot be read (%s: %s); what it recorded does not count", path, type(error).__name__, error)
        return []
    entries = []
    for each in found if isinstance(found, list) else []:
        try:
            entries.append(PrecisionEntry.model_validate(each))
        except ValidationError as error:
            log.warning("%s: an entry does not count: %s", path, error_text(error))
    return entries
