"""Stand-in for the client library of jetson-stats, with faults on request."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.power import jtop
from edge.power.jtop import JtopClient
from tests.support.jtop_service.machine import ROOT

MakeClient = Callable[..., JtopClient]
# Behaves as the client library of jetson-stats 7.2.0 with a service behind it, with a fault on request.
STAND_IN = """
import os, time

FAULT = {fault!r}

class JtopException(Exception):
    pass

class NvpModel:
    name, id, models, status = "MODE_50W", 3, ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"], [True, False, False, True]
    def is_running(self):
        return False
    def set_nvpmodel_name(self, name, force=False):
        assert not force, "this would reboot the board"
        if FAULT != "refuses":
            self.name, self.id = name, self.models.index(name)

class jtop:
    def __init__(self, interval):
        self.nvpmodel = NvpModel()
        if FAULT == "gaps":
            self.nvpmodel.id = 5
        if FAULT == "no nvpmodel":
            self.nvpmodel = None
    def start(self):
        os.write(1, b"jtop prints what it likes\\n")
        if FAULT == "hangs":
            time.sleep(600)
        if FAULT == "dies":
            os.abort()
        if FAULT == "version":
            raise JtopException(
                "Mismatch version jtop service: [7.2.0] and client: [4.3.2]. Please run:\\n\\nsudo systemctl restart"
            )
        if FAULT == "forbidden":
            raise PermissionError(13, "Permission denied")
    def ok(self):
        time.sleep(0.05)
        return FAULT != "silent"
"""


@contextmanager
def stand_in_clients(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """Give a function that makes a client whose jtop is the stand-in, with a fault or without."""
    path = folder / "jtop.sock"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(path))
        monkeypatch.setattr(jtop, "SOCKET", path)

        def make(fault: str = "", reply_s: float = 60.0) -> JtopClient:
            (folder / "jtop.py").write_text(STAND_IN.format(fault=fault), encoding="utf-8")
            monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
            monkeypatch.syspath_prepend(str(folder))
            return JtopClient(reply_s=reply_s)

        yield make
