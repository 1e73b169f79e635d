"""Report of `edge engines verify` as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from edge.core.console import output_console, print_table
from edge.precision.verification_report import VerificationPage


def print_report(page: VerificationPage, file: Path | None) -> None:
    """Print the report, and the path of its HTML file."""
    console = output_console()
    console.print(page.title, style="bold", soft_wrap=True)
    for _, rows in page.tables:
        _print_rows(console, rows)
    if file is not None:
        console.print(f"written to {file}", soft_wrap=True)
    console.print(Text(page.verdict, "bold green" if page.is_good else "bold red"), soft_wrap=True)


def _print_rows(console: Console, rows: Sequence[Sequence[str]]) -> None:
    if rows:
        print_table(console, [""] * len(rows[0]), rows)
