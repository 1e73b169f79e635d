"""Advice on missing parts names what can be installed."""

from __future__ import annotations

import re
import sys

import pytest

from edge.core.installation import install_advice
from tests.support.project import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_advice_names_an_extra_of_the_project_and_never_the_name_that_no_index_has() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "edge").rglob("*.py"))
    advised = {name or "all" for name in re.findall(r"install_advice\((?:['\"](\w+)['\"])?\)", sources)}
    assert {"all", "jetson"} <= advised <= set(extras)
    assert "edge-runtime[" not in sources
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "systemd").glob("*.md")]
    for document in documents:
        if document.name != "CHANGELOG.md":
            assert "edge-runtime[" not in document.read_text("utf-8"), document


@pytest.mark.parametrize("extra", ["all", "jetson"])
def test_advice_is_a_command_for_a_checkout_and_for_a_wheel(extra: str) -> None:
    assert f"`pip install '.[{extra}]'`" in install_advice(extra)
    assert f"`pip install 'WHEEL[{extra}]'`" in install_advice(extra)
