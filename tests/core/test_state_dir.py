"""The state directory: ours alone or refused; no link in it is followed, and nobody else can read what is in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.core.errors import ConfigError, EdgeError
from edge.core.state_dir import default_state_dir, find_state_dir, state_lock

NOBODY = 65_534


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        find_state_dir(path)
    return str(raised.value)


def test_a_new_state_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with state_lock(find_state_dir(tmp_path / "a/state")):
            assert (tmp_path / "a/state").stat().st_mode & 0o777 == 0o700
            assert (tmp_path / "a/state/lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_folder_of_everybody_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)  # as /tmp, whose mode must not be changed
    told = refusal(tmp_path)
    assert f"is everybody's; wanted one for its owner alone: a folder in it, as {tmp_path}/edge, or set" in told
    assert "chmod" not in told


@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_a_folder_that_others_can_write_is_refused_with_the_command_that_changes_it(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    assert f"can be written by others (mode {mode:04o}); " in (told := refusal(tmp_path))
    assert f"chmod go-w {tmp_path}" in told
    tmp_path.chmod(0o755)
    assert find_state_dir(tmp_path) == tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_or_for_a_group_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, NOBODY)
    tmp_path.chmod(0o770)
    assert "can be written by others" in refusal(tmp_path)
    os.chown(tmp_path, NOBODY, NOBODY)
    tmp_path.chmod(0o700)
    assert "belongs to user nobody; wanted one of this user: run this as nobody" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is known to have a group of its own")
def test_a_group_of_the_owner_alone_is_nobody_else(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 0)
    tmp_path.chmod(0o770)
    assert find_state_dir(tmp_path) == tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_link_to_it_that_another_user_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    assert find_state_dir(tmp_path / "link") == tmp_path / "link"
    os.lchown(tmp_path / "link", NOBODY, NOBODY)
    assert "belongs to user nobody" in refusal(tmp_path / "link")


@pytest.mark.parametrize("name", ["lock", "commands.jsonl", "starts.json", "outbox.db", "outbox.db-wal", "models/a/b"])
def test_a_link_in_it_is_refused_by_name(tmp_path: Path, name: str) -> None:
    place = tmp_path / "state" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere")
    assert f"contains the link {place}; " in refusal(tmp_path / "state")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    assert "is not a folder" in refusal(tmp_path / "state")


def test_the_lock_neither_follows_a_link_nor_empties_a_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious", encoding="ascii")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="contains the link"), state_lock(tmp_path / "state"):
        pass
    (tmp_path / "state/lock").unlink()
    (tmp_path / "state/lock").write_text("precious", encoding="ascii")
    with state_lock(tmp_path / "state"), pytest.raises(EdgeError, match="another edge process holds"):  # noqa: SIM117
        with state_lock(tmp_path / "state"):
            pass
    assert (tmp_path / "precious").read_text(encoding="ascii") == "precious"
    assert (tmp_path / "state/lock").read_text(encoding="ascii") == "precious"


def test_the_user_of_the_service_finds_its_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As under sudo, which passes none of the unit's environment."""
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / ".local/state/edge"
    monkeypatch.setenv("HOME", "/var/lib/edge")
    assert default_state_dir() == Path("/var/lib/edge")
