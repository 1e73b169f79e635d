"""Sources as written by users → addresses, with the credentials kept out of all that is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.source_address import SCHEMES, SourceAddress, parse_address

HERE = Path("/srv/edge")
SECRET = "S3cret"  # no part of any other text below
HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,10}(\.[a-z0-9]{1,5}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True)


def shown_everywhere(address: SourceAddress) -> str:
    return f"{address.shown} {address!r} {address.location} {address.options}"


def test_a_relative_path_starts_at_the_folder() -> None:
    assert parse_address("clips/a.mp4", HERE) == SourceAddress("file", "/srv/edge/clips/a.mp4")


def test_an_absolute_path_stays() -> None:
    assert parse_address("/data/a.mp4", HERE).location == "/data/a.mp4"


def test_a_file_url_is_unquoted_and_a_path_is_not() -> None:
    assert parse_address("file:///data/a%20b.mp4", HERE).location == "/data/a b.mp4"
    assert parse_address("/data/a%20b.mp4", HERE).location == "/data/a%20b.mp4"


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_address("~/a.mp4", HERE).location == "/home/someone/a.mp4"


def test_a_camera_device_keeps_its_path() -> None:
    address = parse_address("v4l2:///dev/video0", HERE)
    assert (address.location, address.shown) == ("/dev/video0", "v4l2:///dev/video0")


def test_a_synthetic_source_has_a_name_and_options() -> None:
    address = parse_address("synthetic://conveyor?fps=30&size=640x480", HERE)
    assert (address.location, address.options) == ("conveyor", {"fps": "30", "size": "640x480"})
    assert address.shown == "synthetic://conveyor?fps=30&size=640x480"


def test_a_scheme_may_be_written_in_capitals() -> None:
    assert parse_address("RTSP://cam/main", HERE).scheme == "rtsp"


@pytest.mark.parametrize(
    ("text", "live"),
    [
        ("rtsp://cam/main", True),
        ("rtsps://cam/main", True),
        ("v4l2:///dev/video0", True),
        ("a.mp4", False),
        ("synthetic://conveyor", False),
    ],
)
def test_only_cameras_are_live(text: str, live: bool) -> None:  # noqa: FBT001 -- a column of the table
    assert parse_address(text, HERE).is_live is live


def test_credentials_are_taken_out_of_the_url() -> None:
    address = parse_address("rtsp://viewer:pa%40ss@10.0.0.7:554/main?channel=1", HERE)
    assert (address.username, address.password) == ("viewer", "pa@ss")
    assert address.location == "rtsp://10.0.0.7:554/main?channel=1"
    assert address.shown == "rtsp://10.0.0.7:554"
    assert address.secret_url == "rtsp://viewer:pa%40ss@10.0.0.7:554/main?channel=1"


def test_an_at_sign_in_a_password_belongs_to_the_password() -> None:
    address = parse_address("rtsp://viewer:p@ss@cam/main", HERE)
    assert (address.password, address.shown) == ("p@ss", "rtsp://cam")


@pytest.mark.parametrize("text", ["/data/a.mp4", "/dev/video0", "synthetic://conveyor"])
def test_a_source_that_takes_no_credentials_is_opened_without(text: str) -> None:
    address = replace(parse_address(text, HERE), username="viewer", password="secret")
    assert address.secret_url == address.location


def test_without_credentials_the_url_is_its_own_secret_url() -> None:
    address = parse_address("rtsp://cam/main", HERE)
    assert address.secret_url == address.location == "rtsp://cam/main"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://cam/main", "scheme 'http' is not known; wanted a path or one of " + ", ".join(SCHEMES)),
        ("rtsp://", "nothing follows rtsp://"),
        ("rtsp:///main", "names no host"),
        ("rtsp://cam:99999/main", "no valid host and port"),
        ("rtsp://cam:port/main", "no valid host and port"),
        ("rtsp://[::1/main", "no valid host and port"),
        ("a\0b.mp4", "contains a NUL byte"),
    ],
)
def test_a_wrong_source_is_told_with_what_is_wanted(text: str, told: str) -> None:
    with pytest.raises(ValueError, match="wanted") as raised:
        parse_address(text, HERE)
    assert told in str(raised.value)


@given(scheme=st.sampled_from(["rtsp", "rtsps"]), user=st.text(min_size=1), rest=st.text(), host=HOSTS)
def test_any_credentials_go_in_and_out_and_are_never_shown(scheme: str, user: str, rest: str, host: str) -> None:
    password = SECRET + rest
    text = f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{host}/main"
    address = parse_address(text, HERE)
    assert (address.username, address.password) == (user, password)
    assert address.shown == f"{scheme}://{host}"
    assert SECRET not in shown_everywhere(address)
    again = parse_address(address.secret_url, HERE)
    assert (again.username, again.password, again.location) == (user, password, address.location)


@given(scheme=st.sampled_from(["rtsp", "rtsps", "http", "RTSP"]), before=st.text(), after=st.text(), host=st.text())
def test_no_url_however_broken_shows_its_password(scheme: str, before: str, after: str, host: str) -> None:
    text = f"{scheme}://user:{before.replace('/', '')}{SECRET}{after}@{host}"
    try:
        told = shown_everywhere(parse_address(text, HERE))
    except ValueError as error:
        told = str(error)
    assert SECRET not in told


@given(st.one_of(st.text(), st.builds("{}://{}".format, st.sampled_from(SCHEMES), st.text())))
def test_any_text_is_an_address_or_a_value_error_of_one_line(text: str) -> None:
    try:
        told = parse_address(text, HERE).scheme
    except ValueError as error:
        told = str(error)
    assert told in SCHEMES or len(told.splitlines()) == 1


@pytest.mark.parametrize("text", ["~nobody-of-this-name/a.mp4", "file://~nobody-of-this-name/a.mp4"])
def test_the_home_of_nobody_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="home"):
        parse_address(text, HERE)


@pytest.mark.parametrize(
    "target", ["/user=admin_password=S3cret_channel=1_stream=0.sdp", "/S3cret/live", "/x?token=S3cret", "/x#S3cret"]
)
def test_the_path_of_a_camera_is_not_shown(target: str) -> None:
    address = parse_address(f"rtsp://cam:8554{target}", HERE)
    assert address.shown == "rtsp://cam:8554"
    assert "S3cret" in address.secret_url


def test_the_path_of_a_camera_is_shown_on_request_without_what_are_credentials_there() -> None:
    written = "rtsp://cam/user=admin_password=hunter2_channel=1_stream=0.sdp?token=S3cret"
    address = replace(parse_address(written, HERE), show_path=True)
    assert address.shown == "rtsp://cam/user=…_password=…_channel=1_stream=0.sdp?…"
    assert replace(parse_address("rtsp://cam/main", HERE), show_path=True).shown == "rtsp://cam/main"


@pytest.mark.parametrize("path", ["/dev/video0", "/dev/video99", "/dev/v4l/by-id/usb-cam-index0", "/dev/null"])
def test_the_path_of_a_device_is_that_camera(path: str) -> None:
    assert parse_address(path, HERE) == parse_address(f"v4l2://{path}", HERE)
    assert parse_address(path, HERE).is_live


@pytest.mark.parametrize("written", ["2", "v4l2://2", "v4l2://video2", "v4l2://dev/video2", "v4l2:///dev/video2"])
def test_a_camera_device_may_be_given_by_its_number_or_name(written: str) -> None:
    assert parse_address(written, HERE) == parse_address("/dev/video2", HERE)
    assert parse_address("./2", HERE).scheme == "file"


@pytest.mark.parametrize("url", ["file:///data/a.mp4", "file://localhost/data/a.mp4", "file:/data/a.mp4"])
def test_a_file_url_may_name_this_host_or_none(url: str) -> None:
    assert parse_address(url, HERE).location == "/data/a.mp4"


@pytest.mark.parametrize("sign", "#/?")
def test_a_sign_in_a_password_that_ends_the_host_is_told_with_how_to_write_it(sign: str) -> None:
    with pytest.raises(ValueError, match=f"%{ord(sign):02X}") as raised:
        parse_address(f"rtsp://viewer:S3{sign}cret@10.0.0.7:554/main", HERE)
    assert "password_file" in str(raised.value)
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize("sign", "[]@%: ;&=+$!*\t")
def test_any_other_sign_in_a_password_stands_for_itself(sign: str) -> None:
    address = parse_address(f"rtsp://viewer:S3{sign}cret@10.0.0.7:554/main", HERE)
    assert (address.password, address.shown) == (f"S3{sign}cret", "rtsp://10.0.0.7:554")


@pytest.mark.parametrize(
    "text",
    [
        "rtsp:/u:S3cret@cam/x", "rtsp:u:S3cret@cam", "mqtt:u:S3cret@h", "http:/u:S3cret@cam", "u:S3cret@rtsp://cam/x",
        "rtsp://u:S3cret", "v4l2://u:S3cret@cam", "~u:S3cret@cam", "u:S3cret@cam:554/main", "//u:S3cret@cam",
    ],
)  # fmt: skip
def test_an_address_with_a_mistake_shows_no_password(text: str) -> None:
    try:
        told = parse_address(text, HERE).shown
    except ValueError as error:
        told = str(error)
    assert "S3cret".lower() not in told.lower()


def test_a_path_of_many_words_for_secrets_is_shown_in_no_time() -> None:
    path = "pass" * 100_000
    address = replace(parse_address(f"rtsp://camera/{path}", Path()), show_path=True)
    assert address.shown == f"rtsp://camera/{path}"
