"""A real RTSP server."""

from __future__ import annotations

from pathlib import Path

from tests.support.process import Server
from tests.support.waiting import free_port


class RtspServer(Server):
    """A real RTSP server that plays one video, in its own time, to each client from the start."""

    def __init__(self, folder: Path, video: Path, user: str, password: str) -> None:
        self._user, self._password = user, password
        port = free_port()
        script = Path(__file__).with_name("rtsp_server.py")
        super().__init__(["/usr/bin/python3", script, str(port), video, user, password], folder, "rtsp", port)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/main"

    @property
    def secret_url(self) -> str:
        return f"rtsp://{self._user}:{self._password}@127.0.0.1:{self.port}/main"


RTSP_IMPORTS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


RTSP_PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
