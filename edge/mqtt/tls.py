"""The TLS of a connection to the broker: whom we trust, who we are, and why it failed."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from edge.core.clock import utc_text, wall_ns
from edge.core.config import MqttSettings
from edge.core.errors import ConfigError, UnansweredError

ASK_TIMEOUT_S = 1.0  # for asking a broker once more what is wrong; the end of the daemon may have to wait for it
X509_V_FLAG_NO_CHECK_TIME = 0x20_0000  # <openssl/x509_vfy.h>; the ssl module has no name for it

# What OpenSSL calls a certificate's failures: <openssl/x509_vfy.h>.
NOT_YET_VALID, EXPIRED = 9, 10
WRONG_HOST = (62, 64)  # a name, an address
UNKNOWN_SIGNER = (2, 18, 19, 20, 21)

# What the broker, or OpenSSL here, calls the failures of a handshake.
WANTS_CERTIFICATE = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE")
NO_COMMON_VERSION = ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE")
NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "HTTP_REQUEST")


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Read the files anew, so that a certificate that was renewed on disk serves from the next connection on."""
    try:
        context = ssl.create_default_context(cafile=settings.ca)  # with a CA of our own, the system's are not trusted
        if settings.ca is not None:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority below another can be pinned too
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key, _refuse_encrypted_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"[mqtt] ca, cert or key cannot be used ({error}); wanted PEM files of a CA, a certificate and its key"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _refuse_encrypted_key() -> str:
    """Stand where OpenSSL would ask for a passphrase on the terminal."""
    raise ConfigError(
        "[mqtt] key is encrypted, and a service has nobody to ask for its passphrase; wanted a plain one: "
        "openssl pkey -in KEY -out PLAIN_KEY, chmod 600"
    )


def why_away(settings: MqttSettings, error: Exception) -> str:
    """Say what is wrong with a broker that did not take us; it may be asked once more, for at most seconds."""
    if not settings.tls:
        if isinstance(error, UnansweredError) and _speaks_tls(settings):
            return "it speaks TLS there; wanted mqtts:// in [mqtt] url, or the port without TLS"
        return _told(error)
    if isinstance(error, UnansweredError):  # TLS 1.3: a broker that wants a certificate says so after the handshake
        error = _ask_again(settings) or error
    if isinstance(error, ssl.SSLCertVerificationError):
        return _why_not_trusted(settings, error)
    return _why_no_handshake(settings, error)


def _why_no_handshake(settings: MqttSettings, error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    if reason in NO_COMMON_VERSION:
        return "it speaks no TLS 1.2 or newer, and older ones are not safe; have the broker speak it"
    if reason in NO_TLS or isinstance(error, (ssl.SSLEOFError, ConnectionResetError)):
        return "it does not speak TLS there; wanted mqtt:// in [mqtt] url, or the broker's port for TLS"
    if reason in WANTS_CERTIFICATE and settings.cert is None:
        return "it wants a certificate of ours; set [mqtt] cert and key to one that it knows"
    if "_ALERT_" in reason and settings.cert is not None:
        ours = f"our certificate, [mqtt] cert {settings.cert}"
        return f"it does not take {ours} ({_words(reason)}); wanted one that it knows"
    return f"TLS failed: {_words(reason)}; see the broker's log" if reason else _told(error)


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _words(reason: str) -> str:
    """Turn OpenSSL's name of a failure into words."""
    return reason.partition("_ALERT_")[2].replace("_", " ").lower() or reason.replace("_", " ").lower()


def _why_not_trusted(settings: MqttSettings, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in UNKNOWN_SIGNER:
        signer = f"[mqtt] ca {settings.ca}" if settings.ca else "an authority that this system knows"
        return (
            f"its certificate is not signed by {signer} ({error.verify_message}); "
            "wanted [mqtt] ca to be the authority that signed it"
        )
    certificate = _certificate(settings)
    if error.verify_code in WRONG_HOST:
        names = ", ".join(str(name) for _, name in certificate.get("subjectAltName", ())) or "other names"
        return f"its certificate is for {names}, not for {settings.host}; wanted [mqtt] url with a name that it has"
    if error.verify_code in (EXPIRED, NOT_YET_VALID):
        said, key = ("has expired", "notAfter") if error.verify_code == EXPIRED else ("is not valid yet", "notBefore")
        at = f" ({key} {certificate[key]})" if key in certificate else ""
        return f"its certificate {said}{at} by this clock, {utc_text(wall_ns())}; wanted a valid one, or a right clock"
    return f"its certificate is not to be trusted ({error.verify_message}); wanted a valid one"


@contextlib.contextmanager
def _handshake(settings: MqttSettings, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((settings.host, settings.port), ASK_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=settings.host) as connection,
    ):
        yield connection


def _ask_again(settings: MqttSettings) -> OSError | ConfigError | None:
    """Return what the broker has against us right after the handshake, or what is wrong with our files by now."""
    try:
        with _handshake(settings, tls_context(settings)) as connection:
            connection.recv(1)
    except TimeoutError:
        return None
    except (OSError, ConfigError) as error:
        return error
    return None


def _certificate(settings: MqttSettings) -> dict[str, Any]:
    """Return what stands in the broker's certificate, signed as it must be, for whatever host and time."""
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
    context.verify_mode = ssl.CERT_NONE  # nothing is said over it; what is asked is whether TLS is spoken
    try:
        with _handshake(settings, context):
            return True
    except ssl.SSLError as error:
        return error.reason not in NO_TLS and not isinstance(error, ssl.SSLEOFError)
    except OSError:
        return False
