"""The search for the layers that stand INT8: over a made-up network whose errors are known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.precision.layer_search import SAME, Evaluate, Layers, LayerSearch, LayerSelection, Notes, Score
from edge.precision.search_plot import plot

AIM = Score(0.97, 0.97, 0.97)


def silent(_phase: str, _done: int, _total: int) -> None:
    pass


def network(harms: Mapping[str, float]) -> Evaluate:
    """Return a network in which the squares of the layers' harms add up."""

    def evaluate(layers: Layers) -> Score:
        likeness = max(0.0, 1 - math.sqrt(sum(harms[name] ** 2 for name in layers)))
        return Score(round(likeness, 2), likeness, likeness)

    return evaluate


def whole(search: LayerSearch) -> LayerSelection:
    """Measure each layer alone, then choose."""
    return search.run(search.measure_alone("mse"))


def search(harms: Mapping[str, float], shares: Mapping[str, float] | None = None, aim: Score = AIM) -> LayerSelection:
    even = dict.fromkeys(harms, 1 / len(harms))
    return whole(LayerSearch(shares or even, network(harms), aim, silent))


def test_one_harmful_layer_is_kept_and_all_others_are_quantized() -> None:
    harms = {f"layer{number}": 0.001 for number in range(20)} | {"bad": 0.2}
    choice = search(harms)
    assert choice.layers == set(harms) - {"bad"}
    assert choice.share == pytest.approx(20 / 21)


def test_the_table_is_ordered_by_harm_and_tells_what_is_kept() -> None:
    choice = search({"a": 0.001, "b": 0.3, "c": 0.002})
    assert [(each.layer, each.kept) for each in choice.harms] == [("b", True), ("c", False), ("a", False)]
    assert choice.harms[0].harm == pytest.approx(0.3)


def test_what_costs_little_work_is_given_up_for_what_is_most_of_it() -> None:
    harms = {"large": 0.02} | {f"small{number}": 0.015 for number in range(5)}
    shares = {"large": 0.9} | {f"small{number}": 0.02 for number in range(5)}
    choice = search(harms, shares)
    assert "large" in choice.layers
    assert choice.share > 0.9


def test_nothing_is_excluded_where_all_agree() -> None:
    assert search({"a": 0.0, "b": 0.0}).share == 1


def test_where_nothing_can_be_quantized_nothing_is() -> None:
    choice = search({"a": 0.4, "b": 0.5})
    assert choice.layers == frozenset()
    assert choice.score == SAME
    assert choice.share == 0


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 0.2), min_size=1, max_size=12),
    st.floats(0.8, 0.999),
    st.data(),
)
def test_the_aim_is_kept_and_no_layer_could_be_added(harms: dict[str, float], aim: float, data: st.DataObject) -> None:
    work = {name: data.draw(st.integers(1, 100)) for name in harms}
    shares = {name: each / sum(work.values()) for name, each in work.items()}
    evaluate = network(harms)
    choice = whole(LayerSearch(shares, evaluate, Score(aim, aim, aim), silent))
    assert choice.score == (evaluate(choice.layers) if choice.layers else SAME)
    assert choice.score.reaches(Score(aim, aim, aim))
    for name in set(harms) - choice.layers:
        assert not evaluate(choice.layers | {name}).reaches(Score(aim, aim, aim))


@pytest.mark.parametrize("aim", [Score(0.99, 0, 0), Score(0, 0.99, 0), Score(0, 0, 0.99)])
def test_each_figure_is_kept(aim: Score) -> None:
    assert search({"a": 0.005, "b": 0.3}, aim=aim).layers == {"a"}


def test_known_harms_are_not_measured_again() -> None:
    harms = {"a": 0.001, "b": 0.3}
    asked: list[Layers] = []

    def evaluate(layers: Layers) -> Score:
        asked.append(layers)
        return network(harms)(layers)

    choice = LayerSearch({"a": 0.5, "b": 0.5}, evaluate, AIM, silent).run(harms)
    assert choice.layers == {"a"}
    assert frozenset(["b"]) not in asked or frozenset(["a", "b"]) in asked
    assert len(asked) == len(set(asked))


def test_a_search_that_was_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    harms = {f"layer{number}": 0.002 * number for number in range(8)}
    shares = dict.fromkeys(harms, 1 / 8)
    asked = 0

    def evaluate(layers: Layers) -> Score:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise KeyboardInterrupt
        return network(harms)(layers)

    path = tmp_path / "state" / "search.json"
    with pytest.raises(KeyboardInterrupt):
        whole(LayerSearch(shares, Notes(path, "key").remembering(evaluate), AIM, silent))
    assert Notes(path, "key").count == 4
    notes = Notes(path, "key")
    choice = whole(LayerSearch(shares, notes.remembering(evaluate), AIM, silent))
    assert choice == search(harms)
    total = notes.count
    assert asked == total + 1  # the one that was interrupted
    notes.remove()
    assert Notes(path, "key").count == 0


def test_notes_of_another_search_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    Notes(path, "one").remembering(network({"a": 0.1}))(frozenset("a"))
    assert Notes(path, "other").count == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"key": "key", "scores": [1]}', '{"key": "key", "scores": {"a": 1}}']
)
def test_damaged_notes_are_given_up(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "search.json"
    path.write_text(text, encoding="utf-8")
    assert Notes(path, "key").count == 0
    assert "the search starts anew" in caplog.text


def test_notes_that_cannot_be_written_do_not_end_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    notes = Notes(tmp_path / "file" / "search.json", "key")
    assert notes.remembering(network({"a": 0.1}))(frozenset("a")).likeness == pytest.approx(0.9)
    assert "cannot be written" in caplog.text


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    harms = {"a": 0.001, "b": 0.3}
    whole(LayerSearch({"a": 0.5, "b": 0.5}, network(harms), AIM, lambda *each: told.append(each)))
    assert told[:2] == [("measuring each layer, mse", 0, 2), ("measuring each layer, mse", 1, 2)]
    assert {phase for phase, _, _ in told} == {"measuring each layer, mse", "choosing layers", "taking layers back"}


def test_the_plot_shows_what_was_measured_and_what_was_taken() -> None:
    choice = search({"a": 0.001, "b": 0.02, "c": 0.1})
    drawn = plot("a <model>", {"tensorrt": choice, "cpu": choice}, 0.95)
    assert drawn.startswith("<svg")
    assert "a &lt;model&gt;" in drawn
    assert drawn.count("<circle") == 2 * (len(choice.curve) + 1)


def test_notes_are_readable(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    Notes(path, "one").remembering(network({"a": 0.25}))(frozenset("a"))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["key"] == "one"
    assert list(found["scores"].values()) == [{"agreement": 0.75, "exact": 0.75, "likeness": 0.75}]
