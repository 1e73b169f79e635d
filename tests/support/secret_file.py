"""A file that holds a secret."""

from __future__ import annotations

from pathlib import Path


def secret_file(folder: Path, content: bytes = b"S3cret\n", mode: int = 0o600) -> Path:
    path = folder / "password"
    path.write_bytes(content)
    path.chmod(mode)
    return path
