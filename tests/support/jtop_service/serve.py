"""Runs jtop's real service on the emulated machine, with the Python that has jetson-stats; ends on SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys

import jtop.service


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if not os.path.isdir("/sys/devices/virtual/dmi/id"):  # noqa: PTH112 -- missing on some virtual machines
        jtop.service.get_hardware = dict
    service = jtop.service.JtopServer(force=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    service.loop_for_ever()


if __name__ == "__main__":
    main()
