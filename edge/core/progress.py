"""Progress bars on standard error, where it is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")
LINE_PERIOD_S = 60.0  # of progress where there is no terminal
ProgressCallback = Callable[[str, float, float], None]  # phase, done, of how much


@contextmanager
def phase_bar(title: str, amount: ProgressColumn) -> Iterator[ProgressCallback]:
    """Draw one bar for a sequence of phases; `amount` shows the progress of each."""
    columns = (TextColumn(title), BarColumn(), amount, TimeElapsedColumn(), TextColumn("{task.description}"))
    lines = _ProgressLines()
    with _bar(*columns) as bar:
        task = bar.add_task("", total=1)

        def update(phase: str, done: float, total: float) -> None:
            bar.update(task, description=phase, completed=done, total=total)
            lines.update(f"{title}: {phase}, {done / (total or 1):.0%}")

        yield update


def tracked(items: Iterable[Item], count: int, title: str = "") -> Iterator[Item]:
    """Yield `count` items, and draw the title, or else the current item, and the time left."""
    with _bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task, lines = bar.add_task("", total=count), _ProgressLines()
        for number, item in enumerate(items, start=1):
            text = title or str(item)
            bar.update(task, description=text)
            lines.update(f"{number}/{count} {text}")
            yield item
            bar.advance(task)


def timed(items: Sequence[Item], planned_s: Callable[[Item], float]) -> Iterator[Item]:
    """Yield items, and draw the current one and the time left.

    `planned_s` estimates the time of an item. It is called again before each, as it may learn from those before.
    """
    with _bar(TextColumn("{task.description}"), BarColumn(), _TimeLeftColumn()) as bar:
        task = bar.add_task("", after_s=0.0)
        start_s, lines = time.monotonic(), _ProgressLines()
        for number, item in enumerate(items):
            spent_s = time.monotonic() - start_s
            after_s = sum(map(planned_s, items[number + 1 :]))
            total_s = spent_s + planned_s(item) + after_s
            text = f"{number + 1}/{len(items)} {item}"
            bar.update(task, description=text, completed=spent_s, total=total_s, after_s=after_s)
            lines.update(f"{text}, {timedelta(seconds=round(total_s - spent_s))} left")
            yield item


class _ProgressLines:
    """Lines on standard error where it is no terminal: at most one a minute, and none in the first."""

    def __init__(self) -> None:
        self._due_s = time.monotonic() + LINE_PERIOD_S

    def update(self, text: str) -> None:
        """Print the progress where a line is due."""
        if time.monotonic() >= self._due_s and not sys.stderr.isatty():
            self._due_s = time.monotonic() + LINE_PERIOD_S
            print(text, file=sys.stderr, flush=True)  # noqa: T201 -- for whoever reads the log


class _TimeLeftColumn(ProgressColumn):
    """Time left by the plan: never less than the items after the current one, however long that takes."""

    def render(self, task: Task) -> Text:
        left_s = max((task.total or 0.0) - (task.elapsed or 0.0), task.fields["after_s"])
        return Text(f"{timedelta(seconds=round(left_s))} left", style="progress.remaining")


def _bar(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
