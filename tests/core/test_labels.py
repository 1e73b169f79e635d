"""Labels: one a line as people write them, a data set's YAML file, and the names in an ONNX file's metadata."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import ModelError
from edge.core.labels import labels_text, names_of_metadata, parse_labels, read_labels_file

YAML = "path: ../data\ntrain: images/train\nnc: 2  # two\n\n"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("red\r\ngreen\r\n", ("red", "green")),
        ("red\ngreen\n\n\n", ("red", "green")),
        (" red \ntraffic light, green\n", ("red", "traffic light, green")),
        ("red\n\ngreen\n", ("red", "", "green")),  # a class without a name keeps its number
        ("BACKGROUND\nred\n", ("BACKGROUND", "red")),
        ("red\ngr\u2028een\n", ("red", "gr\u2028een")),
        ("0  red\n1  green\n", ("red", "green")),
        ("0: red\n1: green\n", ("red", "green")),
        ("0:red\n2:blue\n", ("red", "", "blue")),
        ("0\tred\n1\tgreen\n", ("red", "green")),
        ("0,red\n1,green\n", ("red", "green")),
        ("0: 'red'\n1: \"green\"\n", ("red", "green")),
        ("0\n1\n2\n", ("0", "1", "2")),
        ("1 euro\n2 euro\n", ("1 euro", "2 euro")),
        ("0 red\ngreen\n", ("0 red", "green")),
        ("n01440764 tench\nn01443537 goldfish\n", ("n01440764 tench", "n01443537 goldfish")),
        ("", ()),
    ],
)
def test_lines_are_read_as_people_write_them(text: str, labels: tuple[str, ...]) -> None:
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    "names",
    [
        "names:\n  0: red\n  1: green light\n",
        "names:\n  0: 'red'  # the first\n  # none\n  1: \"green light\"\n",
        "names:\n  - red\n  - green light\n",
        "names:\n- red\n- 'green light'\n",
        "names: [red, 'green light']\n",
        "names: ['red',\n  'green light']  # two\n",
        "names: {0: red, 1: green light}\n",
    ],
)
def test_the_names_of_a_data_set_are_read_in_each_form(names: str) -> None:
    for text in (YAML + names, YAML + names + "\nroboflow:\n  names: none\n", names + YAML):
        assert parse_labels(text, ".yaml") == ("red", "green light")
        assert parse_labels(text.replace("\n", "\r\n"), ".YML") == ("red", "green light")


def test_names_with_marks_of_the_format_are_read_whole() -> None:
    assert parse_labels("names: ['it''s, #1', \"a: \\\"b\\\"\"]", ".yaml") == ("it's, #1", 'a: "b"')
    assert parse_labels("names:\n  0: it's#1\n  1: c# # sharp\n", ".yaml") == ("it's#1", "c#")


@pytest.mark.parametrize(
    ("content", "suffix", "told"),
    [
        ("rot\ngrün\n".encode("latin-1"), ".txt", "byte 6 is no UTF-8"),
        (b"1: person\n2: car\n", ".txt", "wanted numbers from 0 upwards"),
        (YAML.encode(), ".yaml", "it has no key `names`"),
        (b"names:\n", ".yaml", "its `names` cannot be read"),
        (b"names:\n  a: red\n", ".yaml", "its `names` cannot be read"),
        (b"names:\n  0: red\n  0: green\n", ".yaml", "a number twice"),
        (b"names: red\n", ".yaml", "its `names` cannot be read"),
        (b"nc: 3\nnames: [red, green]\n", ".yaml", "it has 2 names and nc: 3"),
        (b"names: [red, 'green]\n", ".yaml", "its `names` cannot be read at"),
        (b'["red"]', ".json", "no list of labels"),
    ],
)
def test_another_form_is_a_sentence_that_names_the_file(content: bytes, suffix: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / f"names{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError) as raised:
        read_labels_file(path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)
    assert "wanted" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'red', 1: 'green'}", ("red", "green")),
        ("{'0': 'red', '2': 'blue'}", ("red", "", "blue")),
        ('["red", "green"]', ("red", "green")),
        ("{1: 'red'}", ("", "red")),
        ("red, green", ()),
        ("{'a': 'red'}", ()),
        ("{0: 'red', 99999999: 'x'}", ()),
        ("__import__('os')", ()),
        ("[" * 10_000, ()),
        ("", ()),
    ],
)
def test_the_names_in_metadata_are_a_list_or_a_map_and_nothing_else(text: str, names: tuple[str, ...]) -> None:
    assert names_of_metadata({"names": text, "task": "detect"}) == names


def test_names_are_written_only_where_they_are_read_back_as_they_are() -> None:
    assert labels_text(["red", "green"]) == "red\ngreen\n"
    for names in (["0 red", "1 green"], ["red\nblue"], [" red"], ["red", ""]):
        assert labels_text(names) is None


@given(st.text(), st.sampled_from([".txt", ".yaml", ""]))
def test_any_text_is_labels_or_a_sentence(text: str, suffix: str) -> None:
    try:
        parse_labels(text, suffix)
    except ValueError as error:
        assert "wanted" in str(error)  # noqa: PT017 -- most texts raise nothing


@given(st.text(alphabet="names:[]{}'\"#,0123 \n-ab\\"))
def test_any_names_are_labels_or_a_sentence(text: str) -> None:
    test_any = f"names: {text}"
    try:
        parse_labels(test_any, ".yaml")
    except ValueError as error:
        assert "wanted" in str(error)  # noqa: PT017 -- likewise
