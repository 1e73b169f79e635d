"""TLS between the daemon or the publisher and a real broker."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.cli.check_probes import _connect
from edge.cli.main import main
from edge.core.config import Config, MqttSettings
from edge.core.errors import EdgeError
from edge.mqtt import connection as connection_module
from edge.mqtt import publisher as publisher_module
from edge.mqtt.outbox import Outbox
from edge.mqtt.publisher import Publisher
from edge.mqtt.tls import tls_context
from tests.support.authority import Authority, Certified
from tests.support.broker import Mosquitto
from tests.support.configuration import belt, write_config
from tests.support.process import StartEdge, run_edge
from tests.support.subscriber import subscribed
from tests.support.tls_settings import WILL, tls_settings, why_refused
from tests.support.waiting import eventually, free_port

HOSTS = ("127.0.0.1", "localhost")


class TlsBroker(Mosquitto):
    """A real broker with a plain port, for the subscriber of the test, and one for TLS."""

    def __init__(self, folder: Path, ca: Path, own: Certified, *settings: str, name: str = "tls-broker") -> None:
        self.tls_port = free_port()
        files = (f"cafile {ca}", f"certfile {own.cert}", f"keyfile {own.key}")
        super().__init__(
            folder, "allow_anonymous true", f"listener {self.tls_port} 127.0.0.1", *files, *settings, name=name
        )

    @property
    def tls_url(self) -> str:
        return f"mqtts://127.0.0.1:{self.tls_port}"


StartBroker = Callable[..., TlsBroker]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    """Give a function that starts a broker with the certificate it is handed."""
    started: list[TlsBroker] = []

    def start(*arguments: Any, **keys: Any) -> TlsBroker:
        broker = TlsBroker(tmp_path, *arguments, **keys)
        started.append(broker)
        broker.start()
        return broker

    yield start
    for broker in started:
        broker.kill()


# Right


@pytest.mark.broker
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_results_arrive_by_mutual_tls(
    tmp_path: Path, authority: Authority, start_broker: StartBroker, start_edge: StartEdge, version: str
) -> None:
    own = authority.sign("bench-01")
    demanding = ("require_certificate true", "use_identity_as_username true", f"tls_version {version}")
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS), *demanding)
    mqtt = {"ca": str(authority.ca), "cert": str(own.cert), "key": str(own.key)}
    streams = {"mqtt": mqtt, "streams.belt": belt(frames=60, delivery="every")}
    with subscribed(broker.port) as subscriber:
        daemon = start_edge(write_config(tmp_path / "edge.toml", broker.tls_url, streams))
        assert daemon.wait() == 0
        subscriber.wait_for_state("stopped")
        assert subscriber.seqs("belt") == list(range(60))
    assert re.search(r"as edge-edge-bench-01 \(.*u'bench-01'", broker.log), "the broker knew it by its certificate"


@pytest.mark.broker
def test_an_authority_below_another_can_be_pinned(
    tmp_path: Path, authority: Authority, start_broker: StartBroker
) -> None:
    below = Authority(tmp_path, "below", above=authority)
    server = below.sign("broker", *HOSTS)
    server.cert.write_bytes(server.cert.read_bytes() + below.ca.read_bytes())
    broker = start_broker(below.ca, server)
    assert "MQTT 5" in _connect(Config(mqtt=tls_settings(broker.tls_url, below.ca)))


@pytest.mark.broker
def test_with_a_ca_of_our_own_the_systems_are_not_trusted(
    tmp_path: Path, authority: Authority, start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))  # where OpenSSL looks for the system's
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS))
    assert "MQTT 5" in _connect(Config(mqtt=tls_settings(broker.tls_url)))
    with pytest.raises(EdgeError, match=r"not signed by \[mqtt\] ca"):
        _connect(Config(mqtt=tls_settings(broker.tls_url, Authority(tmp_path, "other").ca)))


@pytest.mark.broker
def test_a_certificate_renewed_on_disk_serves_from_the_next_connection_on(
    tmp_path: Path, authority: Authority, start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(publisher_module, "LONGEST_RETRY_S", 0.1)
    own = Authority(tmp_path, "other").sign("bench-01")
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS), "require_certificate true")
    settings = tls_settings(broker.tls_url, authority.ca, own)
    publisher = Publisher(settings, "edge-test", WILL, Outbox(10), lambda _message, _at_ns: None)
    publisher.start()
    try:
        eventually(lambda: "certificate verify failed" in broker.log, "the broker refuses the first certificate")
        authority.sign("bench-01")  # over the files of the one before
        eventually(lambda: publisher.connected, "a connection with the second")
    finally:
        publisher.finish(5)
        assert publisher.join(10)


# Wrong


@pytest.mark.broker
def test_a_broker_of_another_authority_is_refused(
    tmp_path: Path,
    authority: Authority,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Authority(tmp_path, "other")
    broker = start_broker(other.ca, other.sign("broker", *HOSTS))
    told = why_refused(tls_settings(broker.tls_url, authority.ca), caplog, monkeypatch)
    assert f"its certificate is not signed by [mqtt] ca {authority.ca}" in told
    assert "wanted [mqtt] ca to be the authority that signed it" in told
    with pytest.raises(EdgeError, match="not signed by an authority that this system trusts"):
        _connect(Config(mqtt=tls_settings(broker.tls_url)))


@pytest.mark.broker
@pytest.mark.parametrize("names", [("broker.example", "10.9.8.7"), ()])
def test_a_broker_of_another_name_is_refused_with_the_names_that_it_has(
    authority: Authority,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
) -> None:
    broker = start_broker(authority.ca, authority.sign("broker", *names))
    told = why_refused(tls_settings(broker.tls_url, authority.ca), caplog, monkeypatch)
    assert f"its certificate is for {', '.join(names) or 'other names'}, not for 127.0.0.1" in told
    assert "wanted one of its names in [mqtt] url" in told


@pytest.mark.broker
@pytest.mark.parametrize(("days", "said"), [(-1, "has expired (notAfter "), (90, "is not valid yet (notBefore ")])
def test_a_certificate_out_of_its_time_is_refused_with_the_date(
    authority: Authority,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    said: str,
) -> None:
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS, days=days))
    told = why_refused(tls_settings(broker.tls_url, authority.ca), caplog, monkeypatch)
    assert f"its certificate {said}" in told
    assert "GMT" in told
    assert "or a correct clock" in told


@pytest.mark.broker
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_without_a_certificate_a_broker_that_wants_one_says_so(
    authority: Authority,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    if version == "tlsv1.2":  # what a broker speaks, not only what it speaks at least
        monkeypatch.setattr(connection_module, "tls_context", only_tls_1_2)
        monkeypatch.setattr("edge.mqtt.tls.tls_context", only_tls_1_2)
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS), "require_certificate true")
    told = why_refused(tls_settings(broker.tls_url, authority.ca), caplog, monkeypatch)
    assert "it requires a client certificate; set [mqtt] cert and key" in told


def only_tls_1_2(settings: MqttSettings) -> ssl.SSLContext:
    context = tls_context(settings)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.broker
@pytest.mark.parametrize("days", [30, -1])
def test_a_certificate_of_ours_that_the_broker_does_not_take_is_named(
    tmp_path: Path,
    authority: Authority,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
) -> None:
    own = (Authority(tmp_path, "other") if days > 0 else authority).sign("bench-01", days=days)
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS), "require_certificate true")
    told = why_refused(tls_settings(broker.tls_url, authority.ca, own), caplog, monkeypatch)
    why = "unknown ca" if days > 0 else "certificate expired"
    assert f"it rejects our certificate, [mqtt] cert {own.cert} ({why})" in told


@pytest.mark.broker
def test_a_broker_without_tls_at_the_port_is_told(
    authority: Authority, start_broker: StartBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS))
    told = why_refused(tls_settings(f"mqtts://127.0.0.1:{broker.port}", authority.ca), caplog, monkeypatch)
    assert "this port does not speak TLS; wanted mqtt:// in [mqtt] url, or the broker's port for TLS" in told


@pytest.mark.broker
@pytest.mark.parametrize("demanding", [(), ("require_certificate true",)])
def test_a_broker_with_tls_at_the_port_of_mqtt_is_told(
    authority: Authority,
    start_broker: StartBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    demanding: tuple[str, ...],
) -> None:
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS), *demanding)
    told = why_refused(tls_settings(f"mqtt://127.0.0.1:{broker.tls_port}"), caplog, monkeypatch)
    assert "this port speaks TLS; wanted mqtts:// in [mqtt] url" in told


@pytest.mark.broker
def test_edge_check_tells_what_is_wrong_with_tls(
    tmp_path: Path, authority: Authority, start_broker: StartBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS, days=-1))
    config = write_config(tmp_path / "edge.toml", broker.tls_url, {"mqtt": {"ca": str(authority.ca)}})
    assert main(["check", str(config), "--json"]) == 1
    told = {finding["thing"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert told["TLS files"]["works"] is True
    assert "its certificate has expired" in told["broker"]["told"]


# Files that cannot be used


def refusal(folder: Path, **mqtt: object) -> str:
    """Return why `edge check --config-only` refuses the files."""
    keys = {"url": "mqtts://127.0.0.1"} | {key: str(value) for key, value in mqtt.items()}
    config = write_config(folder / "edge.toml", "mqtts://127.0.0.1", {"mqtt": keys})
    done = run_edge("check", "--config-only", config, folder=folder)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


def test_a_certificate_without_its_key_is_refused_and_a_key_alone_too(tmp_path: Path, authority: Authority) -> None:
    own = authority.sign("bench-01")
    assert refusal(tmp_path, cert=own.cert).endswith("[mqtt]: cert is set without key; wanted both, as two PEM files")
    assert refusal(tmp_path, key=own.key).endswith("[mqtt]: key is set without cert; wanted both, as two PEM files")


def test_tls_files_for_a_connection_without_tls_are_refused(tmp_path: Path, authority: Authority) -> None:
    told = refusal(tmp_path, url="mqtt://127.0.0.1", ca=authority.ca)
    assert told.endswith("found ca and mqtt://127.0.0.1:1883, which is not encrypted; wanted mqtts://")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(
    tmp_path: Path, authority: Authority
) -> None:
    own = authority.sign("bench-01", passphrase="Passphrase")
    told = refusal(tmp_path, ca=authority.ca, cert=own.cert, key=own.key)
    assert "[mqtt] key is encrypted" in told
    assert "wanted an unencrypted key: openssl pkey" in told


def test_files_that_are_no_certificates_or_do_not_match_are_refused(tmp_path: Path, authority: Authority) -> None:
    own, other = authority.sign("bench-01"), authority.sign("other")
    (tmp_path / "none.pem").write_text("no certificate", encoding="utf-8")
    wanted = "wanted PEM files of a CA, a certificate and its key"
    assert wanted in refusal(tmp_path, ca=tmp_path / "none.pem")
    told = refusal(tmp_path, ca=authority.ca, cert=own.cert, key=other.key)
    assert wanted in told
    assert "key values mismatch" in told.lower()
