"""TLS to a real broker: whom we trust, who we are, and one sentence for each way that it fails."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from edge.core.config import load_config
from edge.core.errors import ConfigError, UnansweredError
from edge.core.records import CommandRequest
from edge.mqtt import publisher as publisher_module
from edge.mqtt.outbox import Outbox
from edge.mqtt.publisher import Publisher
from edge.mqtt.tls import explain_failure, tls_context
from tests.support.authority import Authority, Certified
from tests.support.configuration import write_config
from tests.support.tls_settings import WILL, tls_settings, why_refused
from tests.support.waiting import eventually, free_port

HOSTS = ("127.0.0.1", "localhost")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# Right


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
    monkeypatch.setattr(publisher_module, "IDLE_POLL_MS", 10**7)  # nothing but what was received wakes it
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


# Files that cannot be used


def test_old_tls_is_not_offered_and_names_are_checked(authority: Authority) -> None:
    context = tls_context(tls_settings("mqtts://127.0.0.1", authority.ca))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_password_file_or_key_that_is_missing_is_a_sentence(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"\[mqtt\] key: .*gone.key does not exist"):
        load_config(write_config(tmp_path / "edge.toml", "mqtts://h", {"mqtt": {"key": str(tmp_path / "gone.key")}}))
