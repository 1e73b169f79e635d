"""Writes what a module offers as JSON: `python surface.py MODULE`, run in a process of its own.

For each name of the module: its members, and the signatures that the docstrings tell.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any


def signatures(thing: Any, name: str) -> list[str]:
    """Return the lines of a docstring that are signatures."""
    text = getattr(thing, "__doc__", None)
    pattern = rf"^(?:\d+\. )?{re.escape(name)}\(.*\)"
    return re.findall(pattern, text, re.MULTILINE) if isinstance(text, str) else []


def members(thing: Any) -> dict[str, list[str]]:
    """Return a class's members; those of others are not told."""
    if not isinstance(thing, type):
        return {}
    return {name: signatures(getattr(thing, name, None), name) for name in dir(thing)}


def surface(module: Any) -> dict[str, Any]:
    """Return all names of a module."""
    return {
        name: {"signatures": signatures(thing, name), "members": members(thing)}
        for name, thing in ((name, getattr(module, name)) for name in dir(module))
    }


if __name__ == "__main__":
    json.dump(surface(importlib.import_module(sys.argv[1])), sys.stdout)
