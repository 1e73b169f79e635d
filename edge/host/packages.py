"""Versions of installed software, read from files: the `dpkg` program may belong to another machine than the root."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from edge.host.paths import read_text

_CUDA = re.compile(r"cuda-cudart-\d+-\d+")
_TENSORRT = re.compile(r"libnvinfer\d+")
_STANZA = re.compile(r"^Package: (\S+)$(?:\n(?!\n).*)*", re.MULTILINE)
_VERSION = re.compile(r"^Version: (?:\d+:)?(\S+)$", re.MULTILINE)
_INSTALLED = re.compile(r"^Status: .* installed$", re.MULTILINE)


def packages_of(status: str) -> dict[str, str]:
    """Return the installed packages of dpkg's status file with their versions, without epochs."""
    found = {}
    for stanza in _STANZA.finditer(status):
        version = _VERSION.search(stanza[0])
        if version and _INSTALLED.search(stanza[0]):
            found[stanza[1]] = version[1]
    return found


def read_packages() -> dict[str, str]:
    """Return the installed packages with their versions; none without dpkg."""
    return packages_of(read_text("/var/lib/dpkg/status") or "")


def l4t_version(packages: Mapping[str, str]) -> str | None:
    """Return the release of Jetson Linux from its packages, the only source in a container."""
    version = packages.get("nvidia-l4t-core")  # "36.4.3-20250107174145"
    return version.partition("-")[0] if version else None


def cuda_version(packages: Mapping[str, str]) -> str | None:
    """Return the version in the CUDA toolkit's own file, `12.6.68`, else that of its run-time library."""
    try:
        versions = json.loads(read_text("/usr/local/cuda/version.json") or "{}")
    except ValueError:
        versions = {}
    entry = versions.get("cuda") if isinstance(versions, Mapping) else None
    version = entry.get("version") if isinstance(entry, Mapping) else None
    return version if isinstance(version, str) else _newest(packages, _CUDA)


def tensorrt_version(packages: Mapping[str, str]) -> str | None:
    return _newest(packages, _TENSORRT)


def _newest(packages: Mapping[str, str], names: re.Pattern[str]) -> str | None:
    versions = [version for name, version in packages.items() if names.fullmatch(name)]
    return max(versions, key=_as_numbers, default="").partition("-")[0] or None


def _as_numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
