"""What the installer takes is locked: by version and hash, for every Python and both architectures."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.process import clean_environment
from tests.support.project import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("cpu", "jetson", "build")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
KNOWN_HOLES_END = {"opencv-python-headless": "4.12", "onnx": "1.21", "jinja2": "3.1.6"}


def locked(name: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Yield each requirement of a lock with its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            yield Requirement(requirement), hashes


def declared(lock: str) -> list[Requirement]:
    if lock == "build":
        return [Requirement(each) for each in PROJECT["build-system"]["requires"]]
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    return [Requirement(each) for each in (*project["dependencies"], *extras[lock], *extras["metrics"])]


def every_requirement() -> Iterator[Requirement]:
    yield from declared("build")
    project = PROJECT["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from map(Requirement, group)


def applies(requirement: Requirement, python: str, machine: str) -> bool:
    where = {"python_version": python, "python_full_version": f"{python}.9", "platform_machine": machine}
    return requirement.marker is None or requirement.marker.evaluate(where | {"sys_platform": "linux"})


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_a_lock_has_one_version_of_each_package_that_is_declared(lock: str, python: str, machine: str) -> None:
    pins: dict[str, Version] = {}
    for requirement, hashes in locked(lock):
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)
        if applies(requirement, python, machine):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            assert requirement.name not in pins, f"{requirement.name} is there twice"
            pins[requirement.name] = Version(pin.version)
    for requirement in declared(lock):
        if applies(requirement, python, machine):
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_every_requirement_is_bounded_by_its_major_version() -> None:
    for requirement in every_requirement():
        operators = {each.operator for each in requirement.specifier}
        is_bounded = "<" in operators or operators == {"=="} or requirement.name == PROJECT["project"]["name"]
        assert is_bounded, f"{requirement} has no upper bound"


def test_no_version_with_a_known_hole_is_allowed() -> None:
    for requirement in every_requirement():
        end = KNOWN_HOLES_END.get(canonicalize_name(requirement.name))
        if end is not None:
            (least,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
            assert least >= Version(end), requirement


def test_every_locked_package_has_its_licence_listed() -> None:
    listed = re.findall(
        r"^\| ([a-z0-9-]+) \| \S.* \|", (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    listed.remove("package")
    assert sorted(listed) == sorted({requirement.name for lock in LOCKS for requirement, _ in locked(lock)})


def test_another_file_of_the_same_version_is_not_installed(tmp_path: Path, wheel: Path) -> None:
    """Offer a package with the name and version of the first that is locked, but with something else in it."""
    first, _ = next(iter(locked("cpu")))
    (pin,) = first.specifier
    name = first.name.replace("-", "_")
    folder = tmp_path / "offered"
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-{pin.version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{pin.version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {first.name}\nVersion: {pin.version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    done = subprocess.run(
        [ROOT / "scripts/install", "--root", tmp_path / "root", "--wheel", wheel],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env=clean_environment({"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}),
    )
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "the packages could not be installed" in done.stderr
    assert not (tmp_path / "root/opt/edge/bin/edge").exists()
