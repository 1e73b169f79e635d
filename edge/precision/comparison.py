"""Two engines on the same pictures, in turn: how well what they find agrees, and how long each takes."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edge.core.clock import utc_text, wall_ns
from edge.core.errors import ConfigError
from edge.core.records import Findings
from edge.inference.admission import Here, ModelFiles, Precision, PrecisionEntry
from edge.inference.infer import Inference
from edge.pipeline.served_model import Served
from edge.precision.agreement import Agreement, Tally

Picture = NDArray[np.uint8]
LEAST_TIMES = 32  # inferences of each engine, for a median that a moment's load does not make


@dataclass(frozen=True)
class ScoredFindings:
    """What an engine found in a picture."""

    findings: Findings
    unsure: Findings | None  # with what is found down to the floor of scores, where one was given


@dataclass(frozen=True)
class ComparisonResult:
    """What came of a comparison."""

    agreement: Agreement
    data_sha256: str  # of the pictures
    wanted_ms: float  # median of an inference of one picture
    got_ms: float


class Comparison:
    """Runs two engines; a context manager, used by one thread."""

    def __init__(self, wanted: Served, got: Served, floor: float | None = None) -> None:
        """Take the engine whose findings are the truth, the other, and down to which score is to be found as well."""
        self._served = (wanted, got)
        self._floor = floor
        self._open = contextlib.ExitStack()
        self._tally = Tally()
        self._digest = hashlib.sha256()

    def __enter__(self) -> Comparison:
        with contextlib.ExitStack() as opened:
            self._sides = [_Side(served, opened) for served in self._served]
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def look(self, picture: Picture) -> tuple[ScoredFindings, ScoredFindings]:
        """Show both engines a picture; return what each found. They take turns in being the first."""
        self._digest.update(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes())
        wanted, got = self._sides
        if len(wanted.times_ms) % 2:
            second = got.answer(picture, self._floor)
            first = wanted.answer(picture, self._floor)
        else:
            first = wanted.answer(picture, self._floor)
            second = got.answer(picture, self._floor)
        self._tally.add(first.findings, second.findings)
        return first, second

    def finish(self) -> ComparisonResult:
        """Return what came of the pictures so far; of few, the last is run again for the times' sake."""
        while any(len(side.times_ms) < LEAST_TIMES for side in self._sides):
            for side in self._sides:
                side.time()
        wanted_ms, got_ms = (median(side.times_ms) for side in self._sides)
        return ComparisonResult(self._tally.result(), self._digest.hexdigest(), wanted_ms, got_ms)


class _Side:
    """One engine in use."""

    def __init__(self, served: Served, opened: contextlib.ExitStack) -> None:
        context = opened.enter_context(served.make_context(1))
        self._inference = Inference(context, served.engine, 1)
        self._fill = served.make_fill(context)
        self._decoder = served.decoder
        self.times_ms: list[float] = []
        self._inference.warm_up()

    def answer(self, picture: Picture, floor: float | None) -> ScoredFindings:
        geometry = self._fill(picture, 0)
        self.time()
        outputs = self._inference.outputs_of(0)
        unsure = None if floor is None else self._decoder.decode(outputs, geometry, floor)
        return ScoredFindings(self._decoder.decode(outputs, geometry), unsure)

    def time(self) -> None:
        """Run what was filled in, once."""
        self.times_ms.append(self._inference.run(1).infer_ms)


def entry_of(
    onnx: Path,
    form: ModelFiles,
    file: Path,
    here: Here,
    against: Precision,
    measured: ComparisonResult,
    truth: dict[str, dict[str, float]] | None = None,
) -> PrecisionEntry:
    """Return what precision.json keeps of a comparison; raise ConfigError where nothing was found."""
    found = measured.agreement
    if found.figure is None:
        raise ConfigError(
            f"neither {against} nor {form.precision} found anything in {found.frames} frames, which "
            "proves nothing; give --frames that show what the model finds"
        )
    return PrecisionEntry(
        precision=form.precision,
        against=against,
        onnx=onnx.name,
        onnx_sha256=form.onnx_sha256,
        file=file.name,
        file_sha256=form.file_sha256,
        reading_sha256=form.reading_sha256,
        **asdict(here),
        metric="f1" if found.top1 is None else "top1",
        agreement=found.figure,
        measured={name: value for name, value in asdict(found).items() if name != "frames"},
        frames=found.frames,
        data_sha256=measured.data_sha256,
        ms=round(measured.got_ms, 4),
        against_ms=round(measured.wanted_ms, 4),
        truth=truth,
        at=utc_text(wall_ns()),
    )
