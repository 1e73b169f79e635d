"""The page, opened where `[http]` asks for it; what keeps it from opening is told, and all else runs on."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge.core.config import HttpSettings
from edge.core.errors import EdgeError
from edge.daemon.prometheus.http_server import PATH, Endpoint
from edge.pipeline.meters import ModelMeter, StreamMeter

if TYPE_CHECKING:
    from edge.daemon.prometheus.exposition import Exposition

log = logging.getLogger(__name__)

PACKAGE = "prometheus_client"


def address(settings: HttpSettings) -> str:
    """Return where the page stands; raise EdgeError where the package is missing that writes it."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise EdgeError(
            "[http] enabled: found no package prometheus-client, which writes the page; "
            "install it: pip install 'edge-runtime[metrics]'"
        )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}{PATH}"


class Exporter:
    """Shows Prometheus the figures of each period, or nothing where it is not asked for."""

    def __init__(self) -> None:
        self._page: Exposition | None = None
        self._endpoint: Endpoint | None = None

    def start(self, settings: HttpSettings) -> None:
        if not settings.enabled:
            return
        try:
            url = address(settings)
            from edge.daemon.prometheus.exposition import Exposition  # noqa: PLC0415 -- an extra

            page = Exposition()
            self._endpoint = Endpoint(settings.host, settings.port, page.text)
        except EdgeError as error:
            log.error("%s; all else runs on", error)  # noqa: TRY400 -- for users
        except (OSError, UnicodeError) as error:  # UnicodeError: of a host that can be no name
            log.error(  # noqa: TRY400 -- for users
                "[http] host %s, port %d cannot be listened on (%s), so Prometheus reads nothing and all else runs on; "
                "see which program has the port (ss -ltnp), or choose another",
                settings.host,
                settings.port,
                getattr(error, "strerror", None) or error,
            )
        else:
            self._page = page
            log.info("Prometheus can read %s", url)

    def take(
        self,
        body: Mapping[str, Any],
        streams: Mapping[str, StreamMeter],
        models: Mapping[str, ModelMeter],
        alarms: Sequence[Mapping[str, Any]],
        *,
        is_connected: bool,
    ) -> None:
        """Show a period's telemetry message, with the alarms that stand."""
        if self._page is not None and self._endpoint is not None:
            self._page.take(body, streams, models, alarms, self._endpoint.dropped, is_connected=is_connected)

    def stop(self) -> None:
        if self._endpoint is not None:
            self._endpoint.stop()
