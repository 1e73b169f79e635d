"""Settings of TLS, and the reasons why a connection is refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.cli.check_probes import _connect
from edge.core.config import Config, MqttSettings
from edge.core.errors import EdgeError
from edge.core.records import Message
from edge.mqtt import publisher as publisher_module
from edge.mqtt.connection import MqttConnection
from edge.mqtt.outbox import Outbox
from edge.mqtt.publisher import Publisher
from tests.support.authority import Certified
from tests.support.waiting import eventually

WILL = Message("edge/dev/status", b'{"state":"offline"}', retain=True)


def tls_settings(url: str, ca: Path | None = None, own: Certified | None = None) -> MqttSettings:
    keys: dict[str, Any] = {"url": url}
    keys |= {"ca": str(ca)} if ca else {}
    keys |= {"cert": str(own.cert), "key": str(own.key)} if own else {}
    return MqttSettings.model_validate(keys)


def why_refused(settings: MqttSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the sentence on why there is no connection: of `edge check`, and once of the daemon's sender."""
    with pytest.raises(EdgeError) as refused:
        _connect(Config(mqtt=settings))
    attempts: list[int] = []
    monkeypatch.setattr(publisher_module, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(MqttConnection, "open", counted(MqttConnection.open, attempts))
    publisher = Publisher(settings, "edge-test", WILL, Outbox(10), lambda _message, _at_ns: None)
    with caplog.at_level(logging.WARNING):
        publisher.start()
        publisher.put(Message("edge/dev/status", b'{"state":"online"}', retain=True))
        eventually(lambda: len(attempts) >= 4, "three more tries")
        publisher.finish(0)
        assert publisher.join(10)
    told = [record.message for record in caplog.records if "is unreachable" in record.message]
    assert len(told) == 1, "once a loss"
    assert not publisher.connected
    reason = re.search(r"cannot be reached \((.*)\); check that", str(refused.value))
    assert reason is not None, refused.value
    assert undated(reason[1]) in undated(told[0])
    return told[0]


def undated(text: str) -> str:
    return re.sub(r"at \S+ by this clock", "", text)


def counted(function: Callable[[MqttConnection], Any], attempts: list[int]) -> Callable[[MqttConnection], Any]:
    def wrapper(connection: MqttConnection) -> Any:
        attempts.append(1)
        return function(connection)

    return wrapper
