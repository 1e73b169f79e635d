"""Media clock: the times of a file's frames, corrected where they are missing or jump."""

from __future__ import annotations

HIGHEST_RATE = 1000.0  # frames a second; a file that states more, or none, is taken to have USUAL_RATE
USUAL_RATE = 25.0
STEPS_OF_A_GAP = 2.0  # longer than this, and than the longest gap, a step is a jump


class MediaClock:
    """Times that only ever go forward, by the file's own times or, where those cannot be right, by its rate."""

    def __init__(self, rate: float, longest_gap_s: float) -> None:
        """Begin a file of `rate` frames a second, whose frames lie at most `longest_gap_s` apart."""
        self._step_s = 1 / (rate if 0 < rate <= HIGHEST_RATE else USUAL_RATE)
        self._longest_gap_s = max(longest_gap_s, STEPS_OF_A_GAP * self._step_s)
        self._reported_s: float | None = None  # of the last frame
        self._time_s = 0.0
        self.replaced = 0  # times

    def at(self, reported_s: float) -> float:
        """Return the time of the next frame, in seconds, from the one that the file reports."""
        if self._reported_s is None:
            is_right = 0 <= reported_s <= self._longest_gap_s
            step_s = reported_s if is_right else 0.0
        else:
            step_s = reported_s - self._reported_s
            is_right = 0 < step_s <= self._longest_gap_s
            step_s = step_s if is_right else self._step_s
        self._reported_s = reported_s
        self._time_s += step_s
        self.replaced += not is_right
        return self._time_s

    def remark(self) -> str | None:
        """Return how many times were replaced; None without any."""
        if not self.replaced:
            return None
        frames = "1 frame" if self.replaced == 1 else f"{self.replaced} frames"
        rate = f"{1 / self._step_s:.4g} frames per second"
        return f"the time of {frames} was missing or jumped, and was replaced by a step of the rate of {rate}"
