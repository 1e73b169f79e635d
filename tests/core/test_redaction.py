"""Values in whatever form a person mistyped them → what may be shown of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.redaction import redact, redact_address, redact_file_path, shown


@pytest.mark.parametrize(
    ("text", "displayed"),
    [
        ("mqtt:u:S3cret@h", "mqtt:…@h"),
        ("mqtt:/u:S3cret@h:1883", "mqtt:/…@h:1883"),
        ("mqttu:S3cret@h", "…@h"),
        ("u:S3cret@h:554/S3cret", "…@h:554/…"),
        ("rtsp://cam/S3cret/live", "rtsp://cam/…"),
        ("rtsp://cam:554?token=S3cret", "rtsp://cam:554/…"),
        ("http://u:S3'cret\"@[::1]:80/", "http://…@[::1]:80"),
        ("rtsp://u:S3cret", "rtsp://…"),
        ("rtsp://cam:554", "rtsp://cam:554"),
        ("mqt://h/S3cret", "mqt://h/…"),
        ("rstp://h?token=S3cret", "rstp://h/…"),
        ("/data/clip.mp4", "/data/clip.mp4"),
        ("every", "every"),
        ("synthetic://conveyor?fps=5", "synthetic://conveyor?fps=5"),
    ],
)
def test_scheme_host_and_port_remain_of_an_address(text: str, displayed: str) -> None:
    assert redact_address(text) == displayed


@pytest.mark.parametrize(
    ("text", "displayed"),
    [
        ("mqtth/S3cret", "mqtth/…"),
        ("mq/tt://h/S3cret", "mq/…"),
        ("h:1883?x=S3cret", "h:1883/…"),
        ("u:S3cret", "…"),
        ("h", "h"),
    ],
)
def test_of_what_must_be_a_url_less_is_shown(text: str, displayed: str) -> None:
    assert redact_address(text, is_url=True) == displayed


@pytest.mark.parametrize(
    ("path", "displayed"),
    [
        ("u:S3cret@cam/x", "…@cam/x"),
        ("/etc/edge/rtsp:/u:S3/cr@et@cam/x", "/etc/edge/…@cam/x"),
        ("/etc/edge/rtsp/cam/x?token=S3cret&y=1", "/etc/edge/rtsp/cam/x?token=…&y=1"),
        ("/data/me@home/clip.mp4", "/data/me@home/clip.mp4"),
        ("/data/10:30.mp4", "/data/10:30.mp4"),
    ],
)
def test_of_a_path_only_what_may_be_credentials_is_hidden(path: str, displayed: str) -> None:
    assert redact_file_path(path) == displayed


@pytest.mark.parametrize(
    "value",
    [
        ["rtsp://u:S3cret@h"], {"a": {"password": "S3cret"}}, {"Passwort": "S3cret"}, {"rtsp://u:S3cret@h": 1},
        {"pin": "S3cret"}, {"api_key": "S3cret"}, {"auth": ["S3cret"]}, ("x" * 60 + ":S3cret" + "x" * 60 + "@h",),
    ],
)  # fmt: skip
def test_nothing_secret_is_in_a_value_with_parts(value: Any) -> None:
    assert "S3cret" not in shown(value)
    assert "S3cret" not in str(redact(value))


@given(st.text(), st.text(alphabet="/:@'\" \\"))
def test_nothing_before_the_last_at_sign_is_shown(before: str, signs: str) -> None:
    assert "S3cret" not in shown(f"{before}S3cret{signs}x@host")
