"""TLS of the connection to the broker: trust, client certificate, and diagnosis of failures."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from edge.core.clock import utc_text, wall_ns
from edge.core.config import MqttSettings
from edge.core.errors import ConfigError, UnansweredError

PROBE_TIMEOUT_S = 1.0  # of the second handshake that diagnoses a failure; the daemon may have to wait for it to stop
X509_V_FLAG_NO_CHECK_TIME = 0x20_0000  # <openssl/x509_vfy.h>; the ssl module has no name for it

# OpenSSL's codes for failures of a certificate: <openssl/x509_vfy.h>.
NOT_YET_VALID, EXPIRED = 9, 10
WRONG_HOST = (62, 64)  # a name, an address
UNKNOWN_SIGNER = (2, 18, 19, 20, 21)

# Names of handshake failures, from the broker or from OpenSSL here.
WANTS_CERTIFICATE = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE")
NO_COMMON_VERSION = ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE")
NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "HTTP_REQUEST")


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Create a context from the files as they are now, so that renewed certificates apply to the next connection."""
    try:
        context = ssl.create_default_context(cafile=settings.ca)  # with a configured CA, the system's are not trusted
        if settings.ca is not None:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate authority can be pinned too
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key, _refuse_encrypted_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"[mqtt] ca, cert or key cannot be used ({error}); wanted PEM files of a CA, a certificate and its key"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _refuse_encrypted_key() -> str:
    """Raise instead of OpenSSL's prompt for a passphrase on the terminal."""
    raise ConfigError(
        "[mqtt] key is encrypted, and a service cannot ask for a passphrase; wanted an unencrypted key: "
        "openssl pkey -in KEY -out PLAIN_KEY, chmod 600"
    )


def explain_failure(settings: MqttSettings, error: Exception) -> str:
    """Return why a connection failed, in a sentence; may probe the broker again, for at most seconds."""
    if not settings.tls:
        if isinstance(error, UnansweredError) and _speaks_tls(settings):
            return "this port speaks TLS; wanted mqtts:// in [mqtt] url, or the port without TLS"
        return _describe(error)
    if isinstance(error, UnansweredError):  # TLS 1.3: a broker that wants a certificate says so after the handshake
        error = _probe(settings) or error
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_distrust(settings, error)
    return _explain_handshake(settings, error)


def _explain_handshake(settings: MqttSettings, error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    if reason in NO_COMMON_VERSION:
        return "it does not support TLS 1.2 or newer, and older versions are insecure; enable TLS 1.2 on the broker"
    if reason in NO_TLS or isinstance(error, (ssl.SSLEOFError, ConnectionResetError)):
        return "this port does not speak TLS; wanted mqtt:// in [mqtt] url, or the broker's port for TLS"
    if reason in WANTS_CERTIFICATE and settings.cert is None:
        return "it requires a client certificate; set [mqtt] cert and key to one that it accepts"
    if "_ALERT_" in reason and settings.cert is not None:
        ours = f"our certificate, [mqtt] cert {settings.cert}"
        return f"it rejects {ours} ({_words(reason)}); wanted one that it accepts"
    return f"TLS failed: {_words(reason)}; see the broker's log" if reason else _describe(error)


def _describe(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _words(reason: str) -> str:
    """Return OpenSSL's name of a failure in words."""
    return reason.partition("_ALERT_")[2].replace("_", " ").lower() or reason.replace("_", " ").lower()


def _explain_distrust(settings: MqttSettings, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in UNKNOWN_SIGNER:
        signer = f"[mqtt] ca {settings.ca}" if settings.ca else "an authority that this system trusts"
        return (
            f"its certificate is not signed by {signer} ({error.verify_message}); "
            "wanted [mqtt] ca to be the authority that signed it"
        )
    certificate = _certificate(settings)
    if error.verify_code in WRONG_HOST:
        names = ", ".join(str(name) for _, name in certificate.get("subjectAltName", ())) or "other names"
        return f"its certificate is for {names}, not for {settings.host}; wanted one of its names in [mqtt] url"
    if error.verify_code in (EXPIRED, NOT_YET_VALID):
        said, key = ("has expired", "notAfter") if error.verify_code == EXPIRED else ("is not valid yet", "notBefore")
        at = f" ({key} {certificate[key]})" if key in certificate else ""
        return (
            f"its certificate {said}{at} at {utc_text(wall_ns())} by this clock; wanted a valid one, or a correct clock"
        )
    return f"its certificate cannot be trusted ({error.verify_message}); wanted a valid one"


@contextlib.contextmanager
def _handshake(settings: MqttSettings, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((settings.host, settings.port), PROBE_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=settings.host) as connection,
    ):
        yield connection


def _probe(settings: MqttSettings) -> OSError | ConfigError | None:
    """Return the error after another handshake: the broker's objection, or a fault of our files; None without one."""
    try:
        with _handshake(settings, tls_context(settings)) as connection:
            connection.recv(1)
    except TimeoutError:
        return None
    except (OSError, ConfigError) as error:
        return error
    return None


def _certificate(settings: MqttSettings) -> dict[str, Any]:
    """Return the content of the broker's certificate if its signature is valid, for any host and time."""
    with contextlib.suppress(OSError, ConfigError):
        context = tls_context(settings)
        context.check_hostname = False
        context.verify_flags |= ssl.VerifyFlags(X509_V_FLAG_NO_CHECK_TIME)
        with _handshake(settings, context) as connection:
            return connection.getpeercert() or {}
    return {}


def _speaks_tls(settings: MqttSettings) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent over it; it only shows whether TLS is spoken
    try:
        with _handshake(settings, context):
            return True
    except ssl.SSLError as error:
        return error.reason not in NO_TLS and not isinstance(error, ssl.SSLEOFError)
    except OSError:
        return False
