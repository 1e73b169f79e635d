"""Connection to a broker: a single attempt, and what the broker limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.config import MqttSettings
from edge.core.errors import ConfigError, EdgeError
from edge.core.records import Message
from edge.mqtt.connection import MqttConnection
from edge.mqtt.connection_trial import try_connection
from tests.support.counting_broker import CountingBroker
from tests.support.waiting import free_port

WILL = Message("edge/dev/status", b'{"state":"offline"}', retain=True)


def connection(port: int) -> MqttConnection:
    return MqttConnection(MqttSettings(url=f"mqtt://127.0.0.1:{port}", in_flight=20), "edge-test", WILL)


def test_trying_a_broker_that_is_away_fails() -> None:
    with pytest.raises((OSError, EdgeError)):
        try_connection(MqttSettings(url=f"mqtt://127.0.0.1:{free_port()}"), "edge-test", WILL, [])


def test_a_certificate_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate", encoding="utf-8")
    settings = MqttSettings(url="mqtts://127.0.0.1")
    settings = settings.model_copy(update={"ca": tmp_path / "ca.pem"})
    with pytest.raises(ConfigError, match=r"\[mqtt\] ca, cert or key cannot be used .*; wanted PEM files"):
        MqttConnection(settings, "edge-test", WILL)


@pytest.mark.parametrize(("receive_maximum", "window"), [(10, 10), (300, 20)])
def test_the_window_is_the_smaller_of_the_configured_one_and_the_brokers(receive_maximum: int, window: int) -> None:
    opened = connection(CountingBroker(b"\x21" + receive_maximum.to_bytes(2, "big")).port)
    opened.open()
    assert opened.window == window
    opened.close()


def test_a_message_is_refused_by_its_length_only_where_the_broker_names_a_limit() -> None:
    long, short = Message("t", b"x" * 990), Message("t", b"x" * 900)
    limited, unlimited = (
        connection(CountingBroker(b"\x27" + (1000).to_bytes(4, "big")).port),
        connection(CountingBroker().port),
    )
    for each in (limited, unlimited):
        each.open()
    assert limited.refusal(long) == "it accepts packets of at most 1000 bytes"
    assert limited.refusal(short) is None
    assert unlimited.refusal(long) is None
    for each in (limited, unlimited):
        each.close()
