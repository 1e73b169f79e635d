"""One sentence for whatever a settings file holds: the file, section and key, what was found and what was wanted."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from edge.core.errors import ConfigError, ModelError
from edge.core.redaction import without_credentials
from edge.core.validation import FROM_LIST, Table, read_settings


class Lamp(Table):
    colour: Literal["red", "green"] = "red"
    watts: float = Field(5.0, ge=0, le=100)
    spare: int | None = None
    count: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"


class House(Table):
    owner: str
    lit: bool = False
    tags: Annotated[tuple[str, ...], FROM_LIST] = ()
    lamp: Lamp = Lamp()
    lamps: dict[str, Lamp] = Field(default_factory=dict)


def read(folder: Path, text: str | bytes) -> House:
    path = folder / "house.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_settings(path, House, ConfigError)


def refusal(folder: Path, text: str | bytes) -> str:
    """Return the sentence without the file's name, with which it starts."""
    with pytest.raises(ConfigError) as raised:
        read(folder, text)
    told = str(raised.value)
    assert len(told.splitlines()) == 1
    assert told.startswith(f"{folder / 'house.toml'}")
    return told.removeprefix(f"{folder / 'house.toml'}").removeprefix(": ")


def test_a_file_is_read_into_its_tables(tmp_path: Path) -> None:
    house = read(tmp_path, 'owner = "é"\n[lamps.hall]\nwatts = 7\n')
    assert house == House(owner="é", lamps={"hall": Lamp(watts=7.0)})


def test_settings_do_not_change_after_reading(tmp_path: Path) -> None:
    house = read(tmp_path, 'owner = "a"')
    with pytest.raises(ValueError, match="frozen"):
        house.lit = True  # type: ignore[misc]  # that this is refused is the point


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('owner = "a"\nlid = true', "lid: unknown key; did you mean 'lit'?"),
        ('owner = "a"\n[lamps.hall]\nwats = 1', "[lamps.hall] wats: unknown key; did you mean 'watts'?"),
        ('owner = "a"\nxyzzy = 1', "xyzzy: unknown key; known keys: owner, lit, tags, lamp, lamps"),
        ("lit = true", "owner: missing; this key must be set"),
        ("owner = 3", "owner: found 3, wanted a string"),
        ('owner = "a"\nlit = 1', "lit: found 1, wanted a boolean: true or false"),
        ('owner = "a"\nlit = "true"', "lit: found 'true', wanted a boolean: true or false, without quotes"),
        ('owner = "a"\nlamp = 3', "lamp: found 3, wanted a table"),
        ('owner = "a"\ntags = "b"', "tags: found 'b', wanted a list"),
        ('owner = "a"\n[lamp]\ncolour = "blue"', "[lamp] colour: found 'blue', wanted 'red' or 'green'"),
        ('owner = "a"\n[lamp]\nwatts = 101', "[lamp] watts: found 101, wanted less than or equal to 100"),
        ('owner = "a"\n[lamp]\nwatts = "5"', "[lamp] watts: found '5', wanted a number, without quotes"),
        ('owner = "a"\n[lamp]\nwatts = "5 W"', "[lamp] watts: found '5 W', wanted a number"),
        (
            'owner = "a"\n[lamp]\ncolour = "gren"',
            "[lamp] colour: found 'gren', wanted 'red' or 'green'; did you mean 'green'?",
        ),
        ('owner = "a"\n[lamp]\nwatts = nan', "[lamp] watts: found nan, wanted"),
        ('owner = "a"\n[lamp]\ncount = 0', "[lamp] count: found 0, wanted 'auto' or greater than or equal to 1"),
        ('owner = "a"\n[lamp]\ncount = 1.5', "[lamp] count: found 1.5, wanted 'auto' or a whole number"),
    ],
)
def test_a_wrong_value_is_told_with_its_place_and_what_is_wanted(tmp_path: Path, text: str, told: str) -> None:
    assert refusal(tmp_path, text).startswith(told)


def test_three_problems_are_told_and_the_others_are_counted(tmp_path: Path) -> None:
    told = refusal(tmp_path, "a1 = 1\na2 = 1\na3 = 1\na4 = 1\n")
    assert told.count("unknown key") + told.count("missing") == 3
    assert told.endswith("; and 2 more")


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    told = refusal(tmp_path, f"owner = {list(range(1000))}")
    assert "[0, 1, 2" in told
    assert "…" in told
    assert len(told) < 200


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"house\.toml cannot be read \(No such file or directory\); wanted"):
        read_settings(tmp_path / "house.toml", House, ModelError)


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read_settings(tmp_path, House, ConfigError)


def test_a_file_that_is_no_text_is_told_with_the_place(tmp_path: Path) -> None:
    assert refusal(tmp_path, b'owner = "\xff"') == " is not UTF-8 text (byte 9); wanted a TOML file, saved as UTF-8"


@pytest.mark.parametrize("text", ["owner", 'owner = "a', "[lamp", 'owner = "a"\nowner = "b"', "a = " + "[" * 100_000])
def test_invalid_toml_is_told(tmp_path: Path, text: str) -> None:
    assert " is not valid TOML: " in refusal(tmp_path, text)


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "-" + "9" * 5000])
def test_a_number_of_thousands_of_digits_is_told(tmp_path: Path, number: str) -> None:
    assert len(refusal(tmp_path, f"owner = {number}")) < 300


@pytest.mark.parametrize("key", [r"a\nb", r"a\u2028b", r"\u0085"])
def test_a_key_with_a_line_break_is_told_in_one_line(tmp_path: Path, key: str) -> None:
    assert "unknown key" in refusal(tmp_path, f'owner = "a"\n"{key}" = 1')


@pytest.mark.parametrize(
    "url", ["rtsp://viewer:S3cret@cam/main", "mqtt://u:S3@cret@broker", "mqtt://u:a S3cret b@broker", "x://S3cret@h"]
)
def test_a_password_in_a_url_is_blotted_out(tmp_path: Path, url: str) -> None:
    told = refusal(tmp_path, f'owner = ["{url}"]')
    assert "S3" not in told
    assert "cret" not in told


@pytest.mark.parametrize("text", ["rtsp://cam/main", "someone@example.org", "5 // 2"])
def test_text_without_credentials_stays_as_it_is(text: str) -> None:
    assert without_credentials(text) == text


@given(st.binary())
def test_any_bytes_are_settings_or_one_line(content: bytes) -> None:
    told = "no word"
    with TemporaryDirectory() as folder:
        try:
            read(Path(folder), content)
        except ConfigError as error:
            told = str(error)
    assert len(told.splitlines()) == 1


def test_a_url_that_a_mistake_made_a_path_is_blotted_out() -> None:
    told = without_credentials("/etc/edge/rtsp:/user:secret@camera/main does not exist")
    assert "secret" not in told
    assert told.endswith("camera/main does not exist")


def test_text_of_whatever_length_and_signs_is_blotted_out_in_no_time() -> None:
    # Each sign of these once began a search of the whole rest: minutes, in which the daemon did nothing else.
    for signs in ("/:", "//", "/", "@/:", "//a:@"):
        text = signs * 30_000
        assert len(without_credentials(text)) <= len(text)


def test_a_key_is_told_at_no_more_length_than_a_value(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, f'owner = "me"\n{"x" * 50_000} = 1\n')) < 200


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfowner = 'me'").owner == "me"


@pytest.mark.parametrize(
    ("text", "format_name"),
    [
        ("mqtt:\n  host: 10.0.0.2\n", "YAML"),
        ("# cameras\n---\ncameras:\n  - name: door\n", "YAML"),
        ("- source: rtsp://u:S3cret@cam\n", "YAML"),
        ('{"owner": "S3cret"}', "JSON"),
        ('[{"owner": "S3cret"}]', "JSON"),
    ],
)
def test_another_format_is_told_with_how_toml_begins(tmp_path: Path, text: str, format_name: str) -> None:
    told = refusal(tmp_path, text)
    assert told.startswith(f" is {format_name}; wanted TOML, as in: [streams.door]")
    assert "S3cret" not in told


def test_text_without_quotes_is_told(tmp_path: Path) -> None:
    assert "; text needs quotes, " in refusal(tmp_path, "owner = me")
