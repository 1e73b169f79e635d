"""Power rails by label: kinds, sides and what makes up the total."""

from __future__ import annotations

import pytest

from edge.host.sensors.rail_table import rail_of, total_of
from tests.support.emulated_boards import boards

NANO = ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")


@pytest.mark.parametrize("name", boards.BOARDS)
def test_each_boards_total_counts_nothing_twice(name: str) -> None:
    board = boards.BOARDS[name]
    total = total_of(board.rails)
    assert total is not None
    assert (total.name, total.rails, total.alternative) == (board.total, board.total_rails, board.other_rails)
    rails = {rail: rail_of(rail, board.rails) for rail in board.rails}
    assert all(rails[rail].kind == "input" for rail in total.rails)
    assert all(rails[rail].kind in ("part", "carrier") for rail in set(board.rails) - set(total.rails))


def test_a_nanos_total_is_its_input() -> None:
    total = total_of(NANO)
    assert total is not None
    assert total.rails == ("POM_5V_IN",)
    assert rail_of("POM_5V_GPU", NANO).part_of == "POM_5V_IN"


def test_a_tx2s_input_of_the_developer_kit_is_not_in_the_total() -> None:
    names = boards.BOARDS["tx2"].rails
    assert rail_of("VDD_MUX", names).kind == "carrier"
    assert rail_of("VDD_SYS_GPU", names).part_of == "VDD_IN"


def test_sides_of_regulators_are_told_where_they_are_documented() -> None:
    assert {rail_of(rail, boards.XAVIER_RAILS).side for rail in boards.XAVIER_RAILS} == {"upstream"}
    assert rail_of("VDD_GPU_SOC", boards.ORIN_RAILS).side is None
    assert "perhaps included in another" in rail_of("VDDQ_VDD2_1V8AO", boards.ORIN_RAILS).description


def test_rails_of_an_unknown_board_are_summed_and_named() -> None:
    total = total_of(["B_RAIL", "A_RAIL"])
    assert total is not None
    assert total.name == "A_RAIL+B_RAIL"
    assert total_of([]) is None
