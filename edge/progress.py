"""Progress bars on standard error, where it is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
Told = Callable[[str, float, float], None]  # phase, done, of how much


@contextmanager
def phase_bar(title: str, amount: ProgressColumn) -> Iterator[Told]:
    """Draw one bar that goes through phases; `amount` shows how much of the phase is done."""
    columns = (TextColumn(title), BarColumn(), amount, TimeElapsedColumn(), TextColumn("{task.description}"))
    with _bar(*columns) as bar:
        task = bar.add_task("", total=1)
        yield lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total)


def tracked(items: Sequence[Item]) -> Iterator[Item]:
    """Yield items, and draw which of them is at work and what time is left."""
    with _bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=len(items))
        for item in items:
            bar.update(task, description=str(item))
            yield item
            bar.advance(task)


def _bar(*columns: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
