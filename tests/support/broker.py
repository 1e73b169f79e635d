"""A real Mosquitto."""

from __future__ import annotations

import getpass
from pathlib import Path

from tests.support.process import Server
from tests.support.project import program
from tests.support.waiting import free_port


class Mosquitto(Server):
    """A real broker that keeps its port and, where it is ended in peace, its sessions."""

    def __init__(self, folder: Path, *settings: str, name: str = "mosquitto") -> None:
        port = free_port()
        config = folder / f"{name}.conf"
        lines = [
            f"listener {port} 127.0.0.1",
            f"user {getpass.getuser()}",
            "max_queued_messages 0",  # a subscriber that is slow must not lose what the test counts
            "persistence true",
            f"persistence_location {folder}/",
            f"persistence_file {name}.db",
            *(settings or ["allow_anonymous true"]),
        ]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        super().__init__([program("mosquitto", "mosquitto"), "-c", config], folder, name, port)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"
