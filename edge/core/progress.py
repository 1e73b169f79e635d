"""Progress bars on standard error, where it is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
ProgressCallback = Callable[[str, float, float], None]  # phase, done, of how much


@contextmanager
def phase_bar(title: str, amount: ProgressColumn) -> Iterator[ProgressCallback]:
    """Draw one bar for a sequence of phases; `amount` shows the progress of each."""
    columns = (TextColumn(title), BarColumn(), amount, TimeElapsedColumn(), TextColumn("{task.description}"))
    with _bar(*columns) as bar:
        task = bar.add_task("", total=1)
        yield lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total)


def tracked(items: Sequence[Item]) -> Iterator[Item]:
    """Yield items, and draw the current one and the time left."""
    with _bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=len(items))
        for item in items:
            bar.update(task, description=str(item))
            yield item
            bar.advance(task)


def timed(items: Sequence[Item], planned_s: Callable[[Item], float]) -> Iterator[Item]:
    """Yield items, and draw the current one and the time left.

    `planned_s` estimates the time of an item. It is called again before each, as it may learn from those before.
    """
    with _bar(TextColumn("{task.description}"), BarColumn(), _TimeLeftColumn()) as bar:
        task = bar.add_task("", after_s=0.0)
        start_s = time.monotonic()
        for number, item in enumerate(items):
            spent_s = time.monotonic() - start_s
            after_s = sum(map(planned_s, items[number + 1 :]))
            total_s = spent_s + planned_s(item) + after_s
            text = f"{number + 1}/{len(items)} {item}"
            bar.update(task, description=text, completed=spent_s, total=total_s, after_s=after_s)
            yield item


class _TimeLeftColumn(ProgressColumn):
    """Time left by the plan: never less than the items after the current one, however long that takes."""

    def render(self, task: Task) -> Text:
        left_s = max((task.total or 0.0) - (task.elapsed or 0.0), task.fields["after_s"])
        return Text(f"{timedelta(seconds=round(left_s))} left", style="progress.remaining")


def _bar(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
