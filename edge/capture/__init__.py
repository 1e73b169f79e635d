"""Sources behind one small protocol, opened by the scheme of their address."""

from edge.capture.camera import Camera
from edge.capture.source import Source, open_source

__all__ = ["Camera", "Source", "open_source"]
