"""A share of the frames that were served, run through the reference too: how well the serving engine agrees, live."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from edge.core.config import AccuracySettings
from edge.core.records import Findings
from edge.inference.predictor import PredictorSession
from edge.pipeline.frame_samples import ShadowSample, ShadowSampling
from edge.pipeline.served_model import ServedModel
from edge.precision.agreement import agreement

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.02
# Told from this many frames on: a handful says nothing.
LEAST_FRAMES = 20


class Shadow:
    """The thread that compares, of one model; its queue is one frame, and what comes meanwhile is not compared."""

    def __init__(
        self, model: ServedModel, settings: AccuracySettings, tell: Callable[[ServedModel, float], None]
    ) -> None:
        """Take `tell`, which is told the agreement over the window after each frame."""
        self._model = model
        self._sampling = model.sampler.shadow = ShadowSampling(settings.shadow)
        self._tell = tell
        self._engine = ""
        self._window: deque[tuple[Findings, Findings]] = deque(maxlen=settings.window)
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"shadow-{model.name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._sampling.close()

    def _run(self) -> None:
        model = self._model
        try:
            reference = model.predictor.with_engine(model.provider.open_reference())
            with reference.session() as session:
                while (sample := self._sampling.pop()) is not None:
                    if self._await_idle():
                        self._compare(sample, session)
        # The top of a thread: without it the model serves on, only unwatched.
        except Exception:
            log.exception("model %s: its agreement with the reference is not watched any more", model.name)

    def _await_idle(self) -> bool:
        """Wait until no frame waits for the model: serving goes first. False when it is time to stop."""
        while not self._model.batcher.is_idle:
            if self._stopped.wait(IDLE_POLL_S):
                return False
        return not self._stopped.is_set()

    def _compare(self, sample: ShadowSample, reference: PredictorSession) -> None:
        if sample.engine != self._engine:  # what another engine found says nothing of this one
            self._window.clear()
            self._engine = sample.engine
        wanted = reference.predict(sample.image, sample.score_threshold)
        self._window.append((wanted, sample.findings))
        score = agreement([one for one, _ in self._window], [other for _, other in self._window])
        self._model.meter.compared(len(self._window), score)
        if score is not None and len(self._window) >= LEAST_FRAMES:
            self._tell(self._model, score)
