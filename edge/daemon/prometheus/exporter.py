"""Exporter of metrics, if `[http]` enables it; a failure to open is logged, and everything else keeps running."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge.core.config import HttpSettings
from edge.core.errors import EdgeError
from edge.core.installation import install_advice
from edge.daemon.prometheus.http_server import PATH, HttpServer
from edge.pipeline.meters import ModelMeter, StreamMeter

if TYPE_CHECKING:
    from edge.daemon.prometheus.exposition import Exposition

log = logging.getLogger(__name__)

PACKAGE = "prometheus_client"


def address(settings: HttpSettings) -> str:
    """Return the URL of the metrics page; raise EdgeError if the package that writes it is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise EdgeError(
            f"[http] enabled: package prometheus-client, which writes the page, is not installed; {install_advice()}"
        )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}{PATH}"


def _reachable(host: str) -> str:
    """Return this machine's name in place of an address that stands for all of its own."""
    return socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 -- compared, not listened on


class Exporter:
    """Serves the figures of each period to Prometheus, if enabled."""

    def __init__(self) -> None:
        self.link: str | None = None  # to the page, for other machines; None unless it is served
        self._page: Exposition | None = None
        self._server: HttpServer | None = None

    def start(self, settings: HttpSettings) -> None:
        if not settings.enabled:
            return
        try:
            url = address(settings)
            from edge.daemon.prometheus.exposition import Exposition  # noqa: PLC0415 -- an extra

            page = Exposition()
            self._server = HttpServer(settings.host, settings.port, page.text)
        except EdgeError as error:
            log.error("%s; everything else works", error)  # noqa: TRY400 -- for users
        except (OSError, UnicodeError) as error:  # UnicodeError: from an invalid host name
            log.error(  # noqa: TRY400 -- for users
                "[http] host %s, port %d cannot be listened on (%s): no metrics are served, everything else works; "
                "see which program uses the port (ss -ltnp), or choose another",
                settings.host,
                settings.port,
                getattr(error, "strerror", None) or error,
            )
        else:
            self._page = page
            self.link = address(settings.model_copy(update={"host": _reachable(settings.host)}))
            log.info("Prometheus can read %s", url)

    def update(
        self,
        body: Mapping[str, Any],
        streams: Mapping[str, StreamMeter],
        models: Mapping[str, ModelMeter],
        alarms: Sequence[Mapping[str, Any]],
        *,
        is_connected: bool,
    ) -> None:
        """Serve a period's telemetry message, with the standing alarms."""
        if self._page is not None and self._server is not None:
            self._page.update(body, streams, models, alarms, self._server.dropped, is_connected=is_connected)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
