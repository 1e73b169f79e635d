"""Every module can be imported."""

from __future__ import annotations

import importlib
import pkgutil

import edge


def test_every_module_can_be_imported() -> None:
    names = [each.name for each in pkgutil.walk_packages(edge.__path__, "edge.")]
    assert len(names) > 20
    for name in names:
        importlib.import_module(name)
