"""Records of `precision.json`: measured agreement of a model's variants with FP32, and which of them may serve.

An entry is valid only for the files, the settings of model.toml and the backend that it was measured with: accuracy can
differ between devices.
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
from edge.inference.derived_files import derived_paths, places_to_write
from edge.inference.model_variants import ModelFiles, Precision
from edge.inference.runtime_identity import RuntimeIdentity

log = logging.getLogger(__name__)

FILE = "precision.json"
VERSION = 1
MIN_FRAMES = 4  # fewer are no proof
# Boxes can match one to one while scores are lost, for example if both share one quantized tensor's scale.
MAX_SCORE_SHIFT = 0.1


class PrecisionEntry(Table):
    """Measurement of one variant."""

    model_config = ConfigDict(extra="ignore")  # keys of newer versions

    precision: Precision
    against: Precision
    onnx: str  # file names, and hashes of their contents at that time
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
    measured: dict[str, int | float | None]  # all agreement figures
    frames: int = Field(ge=1)
    data_sha256: str  # of the frames
    ms: float = Field(gt=0)  # median inference time of one picture; likewise `against_ms`
    against_ms: float = Field(gt=0)
    truth: dict[str, dict[str, float]] | None = None  # accuracy by precision, if labels were given
    at: str

    @property
    def runtime(self) -> RuntimeIdentity:
        """Backend that was measured."""
        return RuntimeIdentity(self.backend, self.library, self.gpu, self.instructions, self.machine)

    @property
    def key(self) -> tuple[str | None, ...]:
        """Identity of the measurement, which a newer one of the same replaces."""
        return (
            *(self.onnx, self.precision, self.against, self.reading_sha256),
            *(self.backend, self.library, self.gpu, self.instructions, self.machine),
        )


def read_entries(onnx: Path, state_dir: Path) -> list[PrecisionEntry]:
    """Return the entries of a model, newest first; none if the file is missing or damaged."""
    newest: dict[tuple[str | None, ...], PrecisionEntry] = {}
    for path in derived_paths(onnx, state_dir, FILE, beside=FILE):
        for entry in _entries(path):
            if entry.onnx == onnx.name and (entry.key not in newest or newest[entry.key].at < entry.at):
                newest[entry.key] = entry
    return sorted(newest.values(), key=lambda entry: entry.at, reverse=True)


def record(entry: PrecisionEntry, onnx: Path, state_dir: Path) -> Path:
    """Save an entry in place of its predecessor; return the file.

    Entries of another FP32 file of the same name are dropped: they can never admit anything again.
    """
    for path in (paths := places_to_write(onnx, state_dir, FILE, beside=FILE)):
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
            reason = error.strerror
            log.debug("%s cannot be written (%s)", path, reason)
        else:
            return path
    raise ModelError(
        f"the measurement cannot be saved to {' or '.join(map(str, paths))} ({reason}); check the permissions"
    )


@dataclass(frozen=True)
class Admission:
    """Decision whether a variant may serve here."""

    files: ModelFiles
    entry: PrecisionEntry | None  # that admits or rejects it; None for FP32, which needs none, and if there is none
    reason: str | None = None  # why it may not serve; None: it may


def admit(
    entries: Sequence[PrecisionEntry], files: ModelFiles, runtime: RuntimeIdentity, min_agreement: float
) -> Admission:
    """Decide on a variant by the newest entry that was measured with these files and this backend."""
    if files.precision == "fp32":
        return Admission(files, None)
    remaining = [entry for entry in entries if entry.precision == files.precision and entry.against == "fp32"]
    hint = f"verify it here: edge engines verify MODEL --precision {files.precision}"
    if not remaining:
        return Admission(files, None, f"{files.precision} has not been compared with fp32 yet; {hint}")
    for rule in _RULES:
        fitting = [entry for entry in remaining if rule.holds(entry, files, runtime)]
        if not fitting:
            return Admission(files, None, f"{rule.describe(max(remaining, key=_at), runtime)}; {hint}")
        remaining = fitting
    entry = max(remaining, key=_at)
    return Admission(files, entry, rejection_reason(entry, min_agreement))


def _at(entry: PrecisionEntry) -> str:
    return entry.at


def rejection_reason(entry: PrecisionEntry, min_agreement: float) -> str | None:
    """Return why a measurement is not good enough; None if it is."""
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
            f"the scores of {entry.precision} are off by {shift:+.3f} on average, wanted at most {MAX_SCORE_SHIFT:g}: "
            "thresholds would no longer mean the same"
        )
    return None


@dataclass(frozen=True)
class _Rule:
    """Condition for an entry to be valid, and the message if it is not."""

    holds: Callable[[PrecisionEntry, ModelFiles, RuntimeIdentity], bool]
    describe: Callable[[PrecisionEntry, RuntimeIdentity], str]


# The rule whose failure explains most comes first.
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
        lambda entry, runtime: f"{entry.precision} was verified on {entry.backend}, but {runtime.backend} runs here",
    ),
    _Rule(
        lambda entry, files, _: entry.file_sha256 == files.file_sha256,
        lambda entry, _: f"{entry.file} is not the file that was verified on {_day(entry)}",
    ),
    _Rule(
        lambda entry, _, runtime: replace(entry.runtime, machine="") == replace(runtime, machine=""),
        lambda entry, runtime: f"{entry.precision} was verified with {entry.runtime}, but this machine has {runtime}",
    ),
)


def _day(entry: PrecisionEntry) -> str:
    return entry.at[:10]


def fastest(entries: Sequence[PrecisionEntry], admissions: Sequence[Admission], runtime: RuntimeIdentity) -> Precision:
    """Return the admitted precision that was measured as the fastest on this machine: FP32 if none was faster.

    Each entry was timed in turn with FP32, so only their ratio counts; entries of other machines do not.
    """
    ratios: dict[Precision, float] = {"fp32": 1.0}
    for admission in admissions:
        valid = [entry for entry in entries if admission.reason is None and _measures(entry, admission.files, runtime)]
        if valid:
            newest = max(valid, key=_at)
            ratios[newest.precision] = newest.ms / newest.against_ms
    return min(ratios, key=lambda precision: ratios[precision])


def _measures(entry: PrecisionEntry, files: ModelFiles, runtime: RuntimeIdentity) -> bool:
    same = ModelFiles(entry.precision, entry.onnx_sha256, entry.file_sha256, files.reading_sha256) == files
    return same and entry.against == "fp32" and entry.runtime == runtime


def _entries(path: Path) -> list[PrecisionEntry]:
    """Read a file's entries; those that cannot be read are ignored."""
    try:
        document = json.loads(path.read_bytes())
        found = document["entries"] if document["v"] == VERSION else []
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("%s cannot be read (%s: %s); its entries are ignored", path, type(error).__name__, error)
        return []
    entries = []
    for each in found if isinstance(found, list) else []:
        try:
            entries.append(PrecisionEntry.model_validate(each))
        except ValidationError as error:
            log.warning("%s: an entry is ignored: %s", path, error_text(error))
    return entries
