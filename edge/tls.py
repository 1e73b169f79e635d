"""The TLS of a connection to the broker: whom we trust, and who we are."""

from __future__ import annotations

import ssl

from edge.config import MqttSettings
from edge.errors import ConfigError


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Read the files anew, so that a certificate that was renewed on disk serves from the next connection on."""
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"[mqtt] ca, cert or key cannot be used ({error}); wanted PEM files of a CA, a certificate and its key"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
