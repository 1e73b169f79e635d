"""Search for the layers that stand INT8, on a made-up network with known errors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.precision.layer_search import SAME, Evaluate, Layers, LayerSearch, LayerSelection, Score, ScoreStore
from edge.precision.search_plot import plot

AIM = Score(0.97, 0.97, 0.97)


def silent(_phase: str, _done: int, _total: int) -> None:
    pass


def network(sensitivities: Mapping[str, float]) -> Evaluate:
    """Return a network in which the squares of the layers' sensitivities add up."""

    def evaluate(layers: Layers) -> Score:
        similarity = max(0.0, 1 - math.sqrt(sum(sensitivities[name] ** 2 for name in layers)))
        return Score(round(similarity, 2), similarity, similarity)

    return evaluate


def whole(search: LayerSearch) -> LayerSelection:
    """Measure each layer alone, then choose."""
    return search.run(search.measure_alone("mse"))


def search(
    sensitivities: Mapping[str, float], fractions: Mapping[str, float] | None = None, aim: Score = AIM
) -> LayerSelection:
    even = dict.fromkeys(sensitivities, 1 / len(sensitivities))
    return whole(LayerSearch(fractions or even, network(sensitivities), aim, silent))


def test_one_sensitive_layer_is_kept_and_all_others_are_quantized() -> None:
    sensitivities = {f"layer{number}": 0.001 for number in range(20)} | {"bad": 0.2}
    choice = search(sensitivities)
    assert choice.layers == set(sensitivities) - {"bad"}
    assert choice.fraction == pytest.approx(20 / 21)


def test_the_table_is_ordered_by_sensitivity_and_says_what_is_kept() -> None:
    choice = search({"a": 0.001, "b": 0.3, "c": 0.002})
    assert [(each.layer, each.kept) for each in choice.sensitivities] == [("b", True), ("c", False), ("a", False)]
    assert choice.sensitivities[0].sensitivity == pytest.approx(0.3)


def test_what_costs_little_work_is_given_up_for_what_is_most_of_it() -> None:
    sensitivities = {"large": 0.02} | {f"small{number}": 0.015 for number in range(5)}
    fractions = {"large": 0.9} | {f"small{number}": 0.02 for number in range(5)}
    choice = search(sensitivities, fractions)
    assert "large" in choice.layers
    assert choice.fraction > 0.9


def test_nothing_is_excluded_where_all_agree() -> None:
    assert search({"a": 0.0, "b": 0.0}).fraction == 1


def test_where_nothing_can_be_quantized_nothing_is() -> None:
    choice = search({"a": 0.4, "b": 0.5})
    assert choice.layers == frozenset()
    assert choice.score == SAME
    assert choice.fraction == 0


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 0.2), min_size=1, max_size=12),
    st.floats(0.8, 0.999),
    st.data(),
)
def test_the_aim_is_kept_and_no_layer_could_be_added(
    sensitivities: dict[str, float], aim: float, data: st.DataObject
) -> None:
    work = {name: data.draw(st.integers(1, 100)) for name in sensitivities}
    fractions = {name: each / sum(work.values()) for name, each in work.items()}
    evaluate = network(sensitivities)
    choice = whole(LayerSearch(fractions, evaluate, Score(aim, aim, aim), silent))
    assert choice.score == (evaluate(choice.layers) if choice.layers else SAME)
    assert choice.score.reaches(Score(aim, aim, aim))
    for name in set(sensitivities) - choice.layers:
        assert not evaluate(choice.layers | {name}).reaches(Score(aim, aim, aim))


@pytest.mark.parametrize("aim", [Score(0.99, 0, 0), Score(0, 0.99, 0), Score(0, 0, 0.99)])
def test_each_figure_is_kept(aim: Score) -> None:
    assert search({"a": 0.005, "b": 0.3}, aim=aim).layers == {"a"}


def test_known_sensitivities_are_not_measured_again() -> None:
    sensitivities = {"a": 0.001, "b": 0.3}
    asked: list[Layers] = []

    def evaluate(layers: Layers) -> Score:
        asked.append(layers)
        return network(sensitivities)(layers)

    choice = LayerSearch({"a": 0.5, "b": 0.5}, evaluate, AIM, silent).run(sensitivities)
    assert choice.layers == {"a"}
    assert frozenset(["b"]) not in asked or frozenset(["a", "b"]) in asked
    assert len(asked) == len(set(asked))


def test_a_search_that_was_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    sensitivities = {f"layer{number}": 0.002 * number for number in range(8)}
    fractions = dict.fromkeys(sensitivities, 1 / 8)
    asked = 0

    def evaluate(layers: Layers) -> Score:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise KeyboardInterrupt
        return network(sensitivities)(layers)

    path = tmp_path / "state" / "search.json"
    with pytest.raises(KeyboardInterrupt):
        whole(LayerSearch(fractions, ScoreStore(path, "key").caching(evaluate), AIM, silent))
    assert ScoreStore(path, "key").count == 4
    store = ScoreStore(path, "key")
    choice = whole(LayerSearch(fractions, store.caching(evaluate), AIM, silent))
    assert choice == search(sensitivities)
    total = store.count
    assert asked == total + 1  # the one that was interrupted
    store.remove()
    assert ScoreStore(path, "key").count == 0


def test_stored_scores_of_another_search_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    ScoreStore(path, "one").caching(network({"a": 0.1}))(frozenset("a"))
    assert ScoreStore(path, "other").count == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"key": "key", "scores": [1]}', '{"key": "key", "scores": {"a": 1}}']
)
def test_damaged_scores_are_given_up(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "search.json"
    path.write_text(text, encoding="utf-8")
    assert ScoreStore(path, "key").count == 0
    assert "the search starts from the beginning" in caplog.text


def test_stored_scores_that_cannot_be_written_do_not_end_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = ScoreStore(tmp_path / "file" / "search.json", "key")
    assert store.caching(network({"a": 0.1}))(frozenset("a")).similarity == pytest.approx(0.9)
    assert "cannot be written" in caplog.text


def test_progress_is_told() -> None:
    progress: list[tuple[str, int, int]] = []
    sensitivities = {"a": 0.001, "b": 0.3}
    whole(LayerSearch({"a": 0.5, "b": 0.5}, network(sensitivities), AIM, lambda *each: progress.append(each)))
    assert progress[:2] == [("measuring each layer, mse", 0, 2), ("measuring each layer, mse", 1, 2)]
    assert {phase for phase, _, _ in progress} == {
        "measuring each layer, mse",
        "choosing layers",
        "retrying excluded layers",
    }


def test_the_plot_shows_what_was_measured_and_what_was_taken() -> None:
    choice = search({"a": 0.001, "b": 0.02, "c": 0.1})
    drawn = plot("a <model>", {"tensorrt": choice, "cpu": choice}, 0.95)
    assert drawn.startswith("<svg")
    assert "a &lt;model&gt;" in drawn
    assert drawn.count("<circle") == 2 * (len(choice.curve) + 1)


def test_stored_scores_are_readable(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    ScoreStore(path, "one").caching(network({"a": 0.25}))(frozenset("a"))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["key"] == "one"
    assert list(found["scores"].values()) == [{"agreement": 0.75, "exact": 0.75, "likeness": 0.75}]
