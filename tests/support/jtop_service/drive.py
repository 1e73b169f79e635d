"""Does with our client what the arguments say, and prints what came of it: PYTHON [set MODE | state]."""

from __future__ import annotations

import json
import sys

from edge.core.errors import EdgeError
from edge.power.jtop import JtopClient


def main(python: str, verb: str, mode: str = "") -> None:
    client = JtopClient(python)
    told: dict[str, object] = {"available": client.available()}
    try:
        if verb == "set":
            client.set_mode(mode)
        told |= {"mode": client.current(), "modes": client.modes()}
    except EdgeError as error:
        told |= {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
