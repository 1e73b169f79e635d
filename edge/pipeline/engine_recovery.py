"""An engine that fails again and again while it serves: it is opened again in place, the other models serve on."""

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
LONGEST_PAUSE_S = 300.0
FORGOTTEN_S = 600.0  # an engine that has served for so long begins anew


class EngineRecovery:
    """Watches the lanes of one model."""

    def __init__(
        self,
        model: ServedModel,
        swap: Callable[[ServedModel, Engine], None],
        tell: Callable[[ServedModel, str | None, float], None],
    ) -> None:
        """Take `swap`, which brings an engine into service, and `tell`: fault (None: it is over), pause."""
        self._model = model
        self._swap = swap
        self._tell = tell
        self._times = 0
        self._last_ns = 0
        self._is_told = False
        self._stopped = threading.Event()
        self.thread: threading.Thread | None = None

    def look(self, lanes: Sequence[Lane]) -> None:
        """Begin to open the engine again where a lane fails again and again; tell when all serve again."""
        if self.thread is not None and self.thread.is_alive():
            return
        fault = next((lane.fault for lane in lanes if lane.fault is not None), None)
        if fault is not None:
            self._begin(lanes, fault)
        elif self._is_told and any(lane.is_well for lane in lanes) and not any(lane.faults for lane in lanes):
            self._is_told = False
            self._tell(self._model, None, 0.0)

    def stop(self) -> None:
        self._stopped.set()

    def _begin(self, lanes: Sequence[Lane], fault: str) -> None:
        if (now_ns() - self._last_ns) / 1e9 > FORGOTTEN_S:
            self._times = 0
        pause_s = bound_after(self._times - 1, FIRST_PAUSE_S, LONGEST_PAUSE_S) if self._times else 0.0
        self._times += 1
        self._is_told = True
        self._tell(self._model, fault, pause_s)
        name = f"mending-{self._model.name}"
        self.thread = threading.Thread(target=self._run, args=(lanes, pause_s), name=name, daemon=True)
        self.thread.start()

    def _run(self, lanes: Sequence[Lane], pause_s: float) -> None:
        if self._stopped.wait(pause_s) or not any(lane.fault for lane in lanes):
            return  # or it was over by itself
        try:
            self._reopen()
        except GpuLostError as error:
            self._model.lost = error
        except EdgeError as error:
            log.warning("model %s: its engine cannot be opened again: %s", self._model.name, error)
        # The top of a thread: the next look begins anew.
        except Exception:
            log.exception("model %s: its engine cannot be opened again", self._model.name)
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
