"""Cache of plans, each reused only on the machine and with the versions that it was built for.

A plan is code, so none is returned before its manifest, header and SHA-256 have been checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import time_ns
from typing import Any

from edge.core.clock import utc_text
from edge.core.engine_file import HEADER_BYTES, MAGIC, header_version, version_numbers
from edge.core.errors import EngineError
from edge.core.files import unfinished_writes, write_atomic
from edge.inference.backends.tensorrt.build_protocol import MB, BuiltPlan
from edge.inference.backends.tensorrt.builder import file_name
from edge.inference.backends.tensorrt.plan_key import PlanKey

log = logging.getLogger(__name__)

_PRIVATE = 0o600  # permissions
_NAME_DIGITS = 20  # of the key's digest in a file's name; the manifest has the whole key


class StalePlanError(EngineError):
    """There is no usable plan: none at all, one of another machine or version, or a damaged one."""


class _DamagedError(StalePlanError):
    """A plan's files are damaged; the text continues "the plan PATH"."""


@dataclass(frozen=True)
class PlanTrial:
    """Outcome of verifying a plan's engine, stored so that a bad one is not tried for ever."""

    state: str = "untried"  # or trying, verified, refused
    reason: str | None = None  # of the refusal, or the agreement that was measured
    attempts: int = 0  # trials that did not finish because the process ended


def read_header(plan: bytes) -> tuple[bytes, tuple[int, int, int, int]]:
    """Return a plan's magic number and its builder's version: major, minor, patch, build (modulo 256)."""
    if len(plan) < HEADER_BYTES:
        raise _DamagedError(f"has {len(plan)} bytes, wanted at least {HEADER_BYTES}")
    return plan[:4], header_version(plan)


class PlanStore:
    """Plans in `STATE_DIR/plans`, limited to `limit_mb` in total: the least recently used is removed first."""

    def __init__(self, state_dir: Path, limit_mb: int) -> None:
        self.folder = state_dir / "plans"
        self._limit_bytes = limit_mb * MB

    def load(self, key: PlanKey) -> bytes:
        """Return the plan of this key, checked; raise StalePlanError if there is no usable one.

        A damaged plan is deleted, so that it is built again.
        """
        try:
            with self._locked():
                path = self._find(key)
                if path is None:
                    raise self._missing(key)
                return self._checked_or_removed(path, key)
        except FileNotFoundError:
            raise self._missing(key) from None
        except OSError as error:
            raise StalePlanError(
                f"the plans in {self.folder} cannot be read ({error.strerror}); a new one will be built"
            ) from None

    def store(self, key: PlanKey, built: BuiltPlan) -> Path:
        """Store a plan and return its path; remove the least recently used ones above the limit.

        Raises EngineError if it cannot be stored; the plan in memory can be used nevertheless.
        """
        path = self.folder / f"{file_name(built.name)}-{key.digest[:_NAME_DIGITS]}.plan"
        try:
            manifest = _manifest(key, built)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            with self._locked():
                self._remove_leftovers()
                for older in self.folder.glob(f"*-{key.digest[:_NAME_DIGITS]}.*"):
                    older.unlink()
                write_atomic(path, built.plan, durable=True, mode=_PRIVATE)
                # Last, as a plan without a manifest counts as a leftover.
                text = json.dumps(manifest, indent=1)
                write_atomic(path.with_suffix(".json"), text.encode(), durable=True, mode=_PRIVATE)
                self._prune(path)
        except _DamagedError as error:
            raise EngineError(f"the plan of {built.name} {error}; it can be used, but not stored") from None
        except OSError as error:
            raise EngineError(
                f"the plan of {built.name} cannot be stored in {self.folder} ({error.strerror}): wanted a folder of "
                f"our own with {len(built.plan) // MB + 1} MB free; until then, the plan is built again at each start"
            ) from None
        return path

    def manifest(self, key: PlanKey) -> Mapping[str, Any] | None:
        """Return the manifest of the stored plan of this key; None if there is none."""
        path = self._find(key)
        try:
            return _read_manifest(path) if path is not None else None
        except (OSError, StalePlanError):
            return None

    def path(self, key: PlanKey) -> Path | None:
        """Return the path of the stored plan of this key; None if there is none."""
        return self._find(key)

    def has_plan_of_a_gpu(self) -> bool:
        """Return whether a plan was built on a GPU here: TensorRT has worked on this machine."""
        for path in self.folder.glob("*.plan"):
            with contextlib.suppress(OSError, StalePlanError):
                if _read_manifest(path)["key"]["gpu"] is not None:
                    return True
        return False

    def trial(self, key: PlanKey) -> PlanTrial:
        """Return the outcome of trying the plan of this key."""
        path = self._find(key)
        try:
            return PlanTrial(**json.loads(path.with_suffix(".trial").read_bytes())) if path else PlanTrial()
        except (OSError, ValueError, TypeError):
            return PlanTrial()

    def save_trial(self, key: PlanKey, trial: PlanTrial) -> None:
        """Store the outcome of trying the plan of this key; if that fails, it is tried again next time."""
        try:
            with self._locked():
                if (path := self._find(key)) is not None:
                    text = json.dumps(asdict(trial))
                    write_atomic(path.with_suffix(".trial"), text.encode(), durable=True, mode=_PRIVATE)
        except OSError as error:
            log.warning("the outcome of an engine's trial cannot be stored in %s (%s)", self.folder, error.strerror)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the folder against other threads and processes."""
        folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder_fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder_fd)

    def _find(self, key: PlanKey) -> Path | None:
        manifests = self.folder.glob(f"*-{key.digest[:_NAME_DIGITS]}.json")
        return next((path.with_suffix(".plan") for path in manifests), None)

    def _missing(self, key: PlanKey) -> StalePlanError:
        """Return the error for a key without a plan, with the first mismatch of the model's nearest other plan."""
        others = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, StalePlanError):
                found = _read_manifest(path)["key"]
                if found["onnx_sha256"] == key.onnx_sha256 and (mismatches := key.mismatches(found)):
                    others.append((len(mismatches), f"the plan {path.with_suffix('.plan')} {mismatches[0]}"))
        nearest = min(others)[1] if others else f"no plan of this model is stored in {self.folder}"
        return StalePlanError(f"{nearest}; a new one will be built")

    def _checked_or_removed(self, path: Path, key: PlanKey) -> bytes:
        try:
            return self._checked(path, key)
        except _DamagedError as error:
            self._remove(path)
            raise StalePlanError(f"the plan {path} {error}; it was deleted, and a new one will be built") from None

    def _checked(self, path: Path, key: PlanKey) -> bytes:
        manifest = _read_manifest(path)
        if mismatches := key.mismatches(manifest["key"]):
            raise _DamagedError(mismatches[0])
        plan, identity = _read_own(path)
        if len(plan) != manifest["size"]:
            raise _DamagedError(f"has {len(plan)} bytes, wanted {manifest['size']} as its manifest says")
        _check_header(plan, key, manifest["header"][-1])
        if identity not in _hashed:
            _hashed[identity] = hashlib.sha256(plan).hexdigest()
        if _hashed[identity] != manifest["sha256"]:
            raise _DamagedError("does not have the SHA-256 that its manifest says")
        with contextlib.suppress(OSError):  # the time of use only matters in a folder that can be pruned
            os.utime(path.with_suffix(".json"))
        return plan

    def _remove(self, path: Path) -> None:
        for each in (path.with_suffix(".trial"), path.with_suffix(".json"), path):
            with contextlib.suppress(OSError):
                each.unlink()

    def _remove_leftovers(self) -> None:
        """Remove files of processes that were killed while storing; we hold the lock, so none is storing now."""
        pairs = {".plan": ".json", ".json": ".plan", ".trial": ".plan"}
        for path in (
            *unfinished_writes(self.folder),
            *(each for suffix in pairs for each in self.folder.glob(f"*{suffix}")),
        ):
            pair = pairs.get(path.suffix)
            if pair is None or not path.with_suffix(pair).exists():
                path.unlink()

    def _prune(self, kept: Path) -> None:
        """Remove the least recently used plans while their total size exceeds the limit."""
        plans = sorted(self.folder.glob("*.plan"), key=lambda path: path.with_suffix(".json").stat().st_mtime_ns)
        excess_bytes = sum(path.stat().st_size for path in plans) - self._limit_bytes
        for path in plans:
            if excess_bytes > 0 and path != kept:
                excess_bytes -= path.stat().st_size
                log.info("removing the plan %s: plans exceed cache_mb", path)
                self._remove(path)


# SHA-256 by file identity: a file is hashed once per process while its identity is unchanged.
_hashed: dict[tuple[int, ...], str] = {}


def _manifest(key: PlanKey, built: BuiltPlan) -> dict[str, Any]:
    magic, version = read_header(built.plan)
    _check_header(built.plan, key, version[-1])  # else the stored plan would be refused at each load
    return {
        "name": built.name,
        "key": asdict(key),
        "sha256": hashlib.sha256(built.plan).hexdigest(),
        "size": len(built.plan),
        "magic": magic.decode(),
        "header": version,
        "built_at": utc_text(time_ns()),
        "built": asdict(built.facts),
    }


def _read_manifest(plan_path: Path) -> dict[str, Any]:
    """Read the manifest beside a plan, and check the entries that loading needs."""
    data, _ = _read_own(plan_path.with_suffix(".json"))
    try:
        manifest: dict[str, Any] = json.loads(data)
        types = {"key": dict, "sha256": str, "size": int, "header": list}
        if all(isinstance(manifest[name], kind) for name, kind in types.items()) and manifest["header"]:
            return manifest
    except (ValueError, KeyError, TypeError):
        pass
    raise _DamagedError("has an unreadable manifest")


def _check_header(plan: bytes, key: PlanKey, build: int) -> None:
    """Refuse a plan of another library or version before the library reads it."""
    magic, version = read_header(plan)
    if magic != MAGIC[key.library]:
        raise _DamagedError(f"starts with {magic!r}, wanted {MAGIC[key.library]!r} of {key.library}")
    expected = (*version_numbers(key.version), build)
    if version != expected:
        raise _DamagedError(f"has version {_dotted(version)} in its header, wanted {_dotted(expected)}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _read_own(path: Path) -> tuple[bytes, tuple[int, ...]]:
    """Read a file that only we can have written; return its bytes and its identity."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode) or before.st_uid != os.geteuid() or before.st_mode & 0o022:
            raise StalePlanError(
                f"{path} belongs to user {before.st_uid} with mode {stat.S_IMODE(before.st_mode):o}, wanted a file of "
                f"user {os.geteuid()} that no one else may write; a new one will be built"
            )
        data = file.readall()
        if _identity(before) != _identity(os.fstat(fd)):
            raise _DamagedError("changed while being read")
    return data, _identity(before)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
