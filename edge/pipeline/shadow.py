"""Live agreement of the serving engine with the reference, on a fraction of the served frames."""

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
MIN_FRAMES = 20  # in the window, before the agreement means anything


class Shadow:
    """Thread that compares one model's frames; its queue is one frame, and frames that come meanwhile are skipped."""

    def __init__(
        self, model: ServedModel, settings: AccuracySettings, on_agreement: Callable[[ServedModel, float], None]
    ) -> None:
        """Take `on_agreement`, called with the agreement over the window after each frame."""
        self._model = model
        self._sampling = model.sampler.shadow = ShadowSampling(settings.shadow)
        self._on_agreement = on_agreement
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
        # The top of a thread: without it the model goes on serving, only unmonitored.
        except Exception:
            log.exception("model %s: agreement with the reference is no longer monitored", model.name)

    def _await_idle(self) -> bool:
        """Wait until no frame waits for the model, since serving goes first; return False after `stop`."""
        while not self._model.batcher.is_idle:
            if self._stopped.wait(IDLE_POLL_S):
                return False
        return not self._stopped.is_set()

    def _compare(self, sample: ShadowSample, reference: PredictorSession) -> None:
        if sample.engine != self._engine:  # findings of another engine say nothing about this one
            self._window.clear()
            self._engine = sample.engine
        expected = reference.predict(sample.image, sample.score_threshold)
        self._window.append((expected, sample.findings))
        score = agreement([one for one, _ in self._window], [other for _, other in self._window])
        self._model.meter.compared(len(self._window), score)
        if score is not None and len(self._window) >= MIN_FRAMES:
            self._on_agreement(self._model, score)
