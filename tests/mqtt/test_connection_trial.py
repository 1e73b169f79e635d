"""Trial of the broker: asked as the daemon would ask, and beside a daemon that is online."""

from __future__ import annotations

from typing import Any

import pytest

from edge.core.errors import EdgeError
from edge.mqtt.connection import BrokerRefusedError
from edge.mqtt.connection_trial import try_connection
from tests.support.publishing import WILL, mqtt_settings
from tests.support.raw_broker import packet, text
from tests.support.strict_broker import StrictBroker, Will

COMMANDS = "edge/dev/cmd/+"


def status(body: bytes) -> bytes:
    """Return a retained status (MQTT 3.1.1)."""
    return packet(0x31, text(WILL.topic.encode()) + body)


def trial(broker: StrictBroker, *topics: str, **keys: Any) -> str:
    settings = mqtt_settings(broker.port, **{"version": "3.1.1"} | keys)
    return try_connection(settings, "edge-test", WILL, topics)


def test_the_broker_is_asked_with_the_daemons_client_id_and_will() -> None:
    broker = StrictBroker()
    assert trial(broker).endswith("accepts MQTT 3.1.1")
    assert broker.wills[-1] == Will("edge-test", 1, retain=True)


@pytest.mark.parametrize(
    "body", [b'{"state":"offline"}', b'{"state":"stopped"}', b"online", b"[1]", b"\xff", b"[" * 100_000]
)
def test_a_device_that_is_not_online_is_tried_as_itself(body: bytes) -> None:
    broker = StrictBroker(after_suback=status(body))
    trial(broker)
    assert broker.wills[-1] == Will("edge-test", 1, retain=True)


def test_a_daemon_that_is_online_keeps_its_connection_and_its_status() -> None:
    broker = StrictBroker(after_suback=status(b'{"state":"online"}'))
    told = trial(broker, COMMANDS)
    assert "edge-test is online, so this was asked as edge-test-check" in told
    assert {(each.client_id, each.topic) for each in broker.wills} == {("edge-test-check", "")}


def test_a_broker_that_admits_only_the_configured_id_is_asked_with_it() -> None:
    broker = StrictBroker(lambda will: 0 if will.client_id == "edge-test" else 2)
    assert trial(broker).endswith("accepts MQTT 3.1.1")


def test_a_broker_that_does_not_admit_the_id_is_told_with_the_key() -> None:
    broker = StrictBroker(lambda _will: 2)
    with pytest.raises(
        BrokerRefusedError, match=r"wanted \[mqtt\] client_id to be one that it accepts, found edge-test$"
    ):
        trial(broker)


def test_a_subscription_that_is_refused_is_a_failure() -> None:
    broker = StrictBroker(suback=0x80)
    with pytest.raises(EdgeError, match=r"it refused a subscription, so that no commands come: edge/dev/cmd/\+ "):
        trial(broker, COMMANDS)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_broker_without_retention_is_told_as_that(version: str) -> None:
    def connack(will: Will) -> int | None:
        return 0 if not will.retain else 0x9A if version == "5" else None

    told = trial(StrictBroker(connack, b"\x25\x00"), version=version)
    assert told.endswith(
        f"accepts MQTT {version}; it retains no messages: who subscribes later sees no status until the next change"
    )
