"""Capture: sources behind one protocol, and the cameras that read them."""

from edge.capture.camera import Camera
from edge.capture.source import Source, open_source

__all__ = ["Camera", "Source", "open_source"]
