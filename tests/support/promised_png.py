"""PNG files that promise a size and hold no picture."""

from __future__ import annotations


def png_of_size(width: int, height: int) -> bytes:
    """Return the head of a PNG that promises a size; nothing of it can be decoded."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head + bytes(4) + bytes(4) + b"IEND" + bytes(4)
