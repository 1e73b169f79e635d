"""TLS to a real broker: whom we trust, who we are, and one sentence for each way that it fails."""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.cli.check_probes import _connect
from edge.cli.main import main
from edge.core.config import MqttSettings, load_config
from edge.core.errors import ConfigError, EdgeError, UnansweredError
from edge.core.records import CommandRequest, Message
from edge.mqtt import connection as connection_module
from edge.mqtt import publisher as publish
from edge.mqtt.connection import MqttConnection
from edge.mqtt.outbox import Outbox
from edge.mqtt.publisher import Publisher
from edge.mqtt.tls import explain_failure, tls_context
from tests.support.authority import Authority, Certified
from tests.support.broker import Mosquitto
from tests.support.configuration import belt, write_config
from tests.support.process import StartEdge, run_edge
from tests.support.subscriber import subscribed
from tests.support.waiting import eventually, free_port

HOSTS = ("127.0.0.1", "localhost")
WILL = Message("edge/dev/status", b'{"state":"offline"}', retain=True)


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


def tls_settings(url: str, ca: Path | None = None, own: Certified | None = None) -> MqttSettings:
    keys: dict[str, Any] = {"url": url}
    keys |= {"ca": str(ca)} if ca else {}
    keys |= {"cert": str(own.cert), "key": str(own.key)} if own else {}
    return MqttSettings.model_validate(keys)


def why_refused(settings: MqttSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the sentence on why there is no connection: of `edge check`, and once of the daemon's sender."""
    with pytest.raises(EdgeError) as refused:
        _connect(settings)
    attempts: list[int] = []
    monkeypatch.setattr(publish, "FIRST_RETRY_S", 0.01)
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
    assert "MQTT 5" in _connect(tls_settings(broker.tls_url, below.ca))


@pytest.mark.broker
def test_with_a_ca_of_our_own_the_systems_are_not_trusted(
    tmp_path: Path, authority: Authority, start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))  # where OpenSSL looks for the system's
    broker = start_broker(authority.ca, authority.sign("broker", *HOSTS))
    assert "MQTT 5" in _connect(tls_settings(broker.tls_url))
    with pytest.raises(EdgeError, match=r"not signed by \[mqtt\] ca"):
        _connect(tls_settings(broker.tls_url, Authority(tmp_path, "other").ca))


@pytest.mark.broker
def test_a_certificate_renewed_on_disk_serves_from_the_next_connection_on(
    tmp_path: Path, authority: Authority, start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(publish, "LONGEST_RETRY_S", 0.1)
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


@pytest.mark.parametrize("code", [10, 62])
def test_files_that_are_just_being_renewed_do_not_keep_the_reason_from_being_told(
    authority: Authority, code: int
) -> None:
    own, other = authority.sign("bench-01"), authority.sign("other")
    settings = tls_settings("mqtts://127.0.0.1:1", authority.ca, Certified(own.cert, other.key))
    error = ssl.SSLCertVerificationError("failed")
    error.verify_code, error.verify_message = code, "why"
    assert "its certificate" in explain_failure(settings, error)


def test_a_certificate_whose_key_is_not_written_yet_is_told_and_ends_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    own = authority.sign("bench-01")
    settings = tls_settings(f"mqtts://127.0.0.1:{free_port()}", authority.ca, own)
    own.key.write_bytes(Authority(tmp_path, "other").sign("bench-02").key.read_bytes())
    assert "[mqtt] ca, cert or key cannot be used" in explain_failure(
        settings, UnansweredError("it hung up on CONNECT")
    )


def test_all_that_comes_in_one_record_is_read_at_once(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "IDLE_POLL_MS", 10**7)  # nothing but what was received wakes it
    own = authority.sign("broker", *HOSTS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(4096)
            connection.sendall(b"\x20\x03\x00\x00\x00" + 5 * b"\x30\x07\x00\x03a/b\x00x")
            done.wait(60)

    threading.Thread(target=serve, daemon=True).start()
    requests: list[CommandRequest] = []
    settings = tls_settings(f"mqtts://127.0.0.1:{listener.getsockname()[1]}", authority.ca)
    publisher = Publisher(settings, "edge-test", WILL, Outbox(10), lambda _m, _at_ns: None, ["a/+"], requests.append)
    publisher.start()
    try:
        eventually(lambda: len(requests) == 5, "all five requests", timeout_s=10)
    finally:
        done.set()
        publisher.finish(0)
        assert publisher.join(10)
        listener.close()


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
        _connect(tls_settings(broker.tls_url))


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


class OldTls:
    """Speaks TLS 1.1 and nothing newer, which today's Mosquitto cannot be asked to."""

    def __init__(self, own: Certified) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(own.cert, own.key)
        self._context.set_ciphers("DEFAULT@SECLEVEL=0")  # OpenSSL 3 lets nothing below use TLS 1.1
        self._context.minimum_version = ssl.TLSVersion.TLSv1
        self._context.maximum_version = ssl.TLSVersion.TLSv1_1
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.hands_shaken = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._context.wrap_socket(connection, server_side=True)
                    self.hands_shaken += 1
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_broker_of_old_tls_only_is_refused(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = OldTls(authority.sign("broker", *HOSTS))
    told = why_refused(tls_settings(f"mqtts://127.0.0.1:{server.port}", authority.ca), caplog, monkeypatch)
    assert "it does not support TLS 1.2 or newer" in told
    willing = ssl.create_default_context(cafile=authority.ca)
    willing.set_ciphers("DEFAULT@SECLEVEL=0")
    willing.minimum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        willing.wrap_socket(plain, server_hostname="127.0.0.1").close()
    eventually(lambda: server.hands_shaken == 1, "it does speak with who takes TLS 1.1")
    server.close()


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


def test_old_tls_is_not_offered_and_names_are_checked(authority: Authority) -> None:
    context = tls_context(tls_settings("mqtts://127.0.0.1", authority.ca))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_password_file_or_key_that_is_missing_is_a_sentence(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"\[mqtt\] key: .*gone.key does not exist"):
        load_config(write_config(tmp_path / "edge.toml", "mqtts://h", {"mqtt": {"key": str(tmp_path / "gone.key")}}))
