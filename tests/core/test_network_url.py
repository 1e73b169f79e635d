"""URLs as people write them → host and port, with credentials and path kept out of what is shown."""

from __future__ import annotations

import pytest

from edge.core.network_url import parse_network_url


@pytest.mark.parametrize(
    ("text", "host", "port", "user", "password", "target"),
    [
        ("mqtt://h", "h", None, None, None, ""),
        ("MQTT://u:p@h:1884/", "h", 1884, "u", "p", "/"),
        ("rtsp://u%40:p%2F@h/x?y#z", "h", None, "u@", "p/", "/x?y#z"),
        ("rtsp://u:a:b@@[::1]:554/x", "::1", 554, "u", "a:b@", "/x"),
        ("rtsp://u:[a]%zz@h", "h", None, "u", "[a]%zz", ""),
        ("rtsp://:p@h", "h", None, None, "p", ""),
    ],
)
def test_a_url_is_taken_apart(
    text: str, host: str, port: int | None, user: str | None, password: str | None, target: str
) -> None:
    url = parse_network_url(text)
    assert (url.host, url.port, url.username, url.password, url.target) == (host, port, user, password, target)
    assert url.location == url.shown + target


@pytest.mark.parametrize("host", ["$BROKER", "{{ broker }}", "<broker>", "%(broker)s$"])
def test_a_placeholder_is_no_host(host: str) -> None:
    with pytest.raises(ValueError, match=r"in the host; wanted mqtt://HOST.*environment \$\{NAME\}"):
        parse_network_url(f"mqtt://u:S3cret@{host}:1883")


def test_neither_credentials_nor_path_are_in_what_is_shown() -> None:
    url = parse_network_url("rtsp://viewer:S3cret@10.0.0.7:554/S3cret?token=S3cret#S3cret")
    assert url.shown == "rtsp://10.0.0.7:554"
    assert "S3cret" not in repr(url)


@pytest.mark.parametrize(
    "text", ["mqtt://u:S3/cret@h", "mqtt://u:S3cret@h:port", "mqtt://u:S3cret@", "mqtt://u@h:0/S3cret"]
)
def test_a_wrong_url_is_told_without_what_is_secret(text: str) -> None:
    with pytest.raises(ValueError, match=r"mqtt://|%2F") as raised:
        parse_network_url(text)
    assert "cret" not in str(raised.value)
