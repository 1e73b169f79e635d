"""Recovery of an engine that fails repeatedly: reopened in place, while the other models go on serving."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from edge.core.backoff import bound_after
from edge.core.clock import now_ns
from edge.core.errors import EdgeError, GpuLostError
from edge.inference.backends.engine import Engine
from edge.pipeline.lane import Lane
from edge.pipeline.served_model import ServedModel

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 5.0  # before the second time; the first comes at once
MAX_PAUSE_S = 300.0
RESET_S = 600.0  # of serving, after which the pauses start anew


class EngineRecovery:
    """Watches the lanes of one model, and reopens its engine where they fail."""

    def __init__(
        self,
        model: ServedModel,
        swap: Callable[[ServedModel, Engine], None],
        on_fault: Callable[[ServedModel, str | None, float], None],
    ) -> None:
        """Take `swap`, which brings an engine into service, and `on_fault`: fault (None: recovered), pause."""
        self._model = model
        self._swap = swap
        self._on_fault = on_fault
        self._attempts = 0
        self._last_ns = 0
        self._is_reported = False
        self._stopped = threading.Event()
        self.thread: threading.Thread | None = None

    def tick(self, lanes: Sequence[Lane]) -> None:
        """Start to reopen the engine where a lane fails repeatedly; report when all lanes serve again."""
        if self.thread is not None and self.thread.is_alive():
            return
        fault = next((lane.fault for lane in lanes if lane.fault is not None), None)
        if fault is not None:
            self._begin(lanes, fault)
        elif self._is_reported and any(lane.is_well for lane in lanes) and not any(lane.faults for lane in lanes):
            self._is_reported = False
            self._on_fault(self._model, None, 0.0)

    def stop(self) -> None:
        self._stopped.set()

    def _begin(self, lanes: Sequence[Lane], fault: str) -> None:
        if (now_ns() - self._last_ns) / 1e9 > RESET_S:
            self._attempts = 0
        pause_s = bound_after(self._attempts - 1, FIRST_PAUSE_S, MAX_PAUSE_S) if self._attempts else 0.0
        self._attempts += 1
        self._is_reported = True
        self._on_fault(self._model, fault, pause_s)
        name = f"recovery-{self._model.name}"
        self.thread = threading.Thread(target=self._run, args=(lanes, pause_s), name=name, daemon=True)
        self.thread.start()

    def _run(self, lanes: Sequence[Lane], pause_s: float) -> None:
        if self._stopped.wait(pause_s) or not any(lane.fault for lane in lanes):
            return  # stopped, or recovered by itself
        try:
            self._reopen()
        except GpuLostError as error:
            self._model.lost = error
        except EdgeError as error:
            log.warning("model %s: its engine cannot be reopened: %s", self._model.name, error)
        # The top of a thread: the next tick starts anew.
        except Exception:
            log.exception("model %s: its engine cannot be reopened", self._model.name)
        self._last_ns = now_ns()

    def _reopen(self) -> None:
        model = self._model
        opened = model.open_engine()
        try:
            self._swap(model, opened.engine)
        except BaseException:
            opened.engine.close()
            raise
        model.missing_reason, model.can_build = opened.missing_reason, opened.can_build
