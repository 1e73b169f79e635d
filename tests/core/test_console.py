"""The one style of tables: nothing cut off, no word broken, nothing drawn into pipes."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from edge.core.console import light_table, output_console, print_table

HEADS = ("model", "images/s", "of it", "where")
PATH = "/var/lib/edge/models/" + "a-long-name-" * 4
ROWS = (
    ("conveyor", "9.5", "2%", "a text of many words that says where the model lies, which is " + PATH),
    ("digits", "1234.0", "–", "built in"),  # noqa: RUF001 -- as reports write what was not measured
)
FRAMES = re.compile("[│┃┏┡━╇┓┩┴└┘├┤┼═─]")


def printed(columns: int, *, terminal: bool) -> list[str]:
    file = io.StringIO()
    print_table(Console(file=file, width=columns, force_terminal=terminal, color_system=None), HEADS, ROWS, title="T")
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("columns", [20, 40, 80, 130])
def test_no_word_is_broken_and_nothing_is_cut_off_at_any_width(columns: int) -> None:
    words = " ".join(printed(columns, terminal=True)).split()
    for row in (HEADS, *ROWS):
        for cell in row:
            assert {word for word in cell.split() if word != PATH} <= set(words)
    assert "…" not in "".join(words)
    assert PATH in "".join(words)  # a name as long as this one is broken after its separators
    parts = [word for word in words if word.startswith(("/var", "a-long", "long", "name-"))]
    assert all(part.endswith(("-", "/")) for part in parts)


def test_numbers_are_right_aligned_and_text_is_not() -> None:
    _, head, *lines = printed(10_000, terminal=False)
    first, second = lines[0], lines[1]
    assert first.index("9.5") + len("9.5") == second.index("1234.0") + len("1234.0") == head.index("/s") + 2
    assert first.index("2%") + 1 == second.index("–")  # noqa: RUF001 -- likewise
    assert first.index("a text") == second.index("built in") == head.index("where")


def test_only_one_line_is_drawn_on_a_terminal_and_none_in_a_pipe() -> None:
    drawn = [line for line in printed(200, terminal=True) if FRAMES.search(line)]
    assert len(drawn) == 1
    assert not any(FRAMES.search(line) for line in printed(200, terminal=False))


def test_a_pipe_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(output_console(), HEADS, ROWS)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(ROWS)


def test_a_live_table_has_its_title_and_caption() -> None:
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True, color_system=None)
    console.print(light_table(console, HEADS, ROWS, title="the title", caption="the caption"))
    assert file.getvalue().startswith("the title")
    assert file.getvalue().rstrip().endswith("the caption")
