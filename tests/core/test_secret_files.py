"""Files with secrets: who may read them, what systemd hands over, and that nothing of them shows anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.config import Config, load_config
from edge.core.errors import ConfigError
from edge.core.secret_files import is_public, read_secret
from tests.support.configuration import Json, write_config
from tests.support.secret_file import secret_file


def load(folder: Path, mqtt: Json) -> Config:
    return load_config(write_config(folder / "edge.toml", "mqtt://127.0.0.1", {"mqtt": mqtt}))


def refusal(folder: Path, mqtt: Json) -> str:
    with pytest.raises(ConfigError) as refused:
        load(folder, mqtt)
    told = str(refused.value)
    assert "\n" not in told
    return told


# What stands in them


def test_a_secret_loses_only_the_newline_at_its_end(tmp_path: Path) -> None:
    assert read_secret(secret_file(tmp_path, b" p w \r\n")) == " p w "


@given(
    st.text(min_size=1, max_size=50).filter(lambda text: text.rstrip("\r\n") == text),
    st.sampled_from(["", "\n", "\r\n"]),
)
def test_any_password_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, password: str, end: str
) -> None:
    path = secret_file(tmp_path_factory.mktemp("secret"), (password + end).encode("utf-8", "replace"))
    assert read_secret(path) == password.encode("utf-8", "replace").decode()


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    assert read_secret(secret_file(tmp_path, b"\xef\xbb\xbfS3cret\r\n")) == "S3cret"


def test_a_secret_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"password file .* cannot be read .*; wanted a readable text file"):
        read_secret(secret_file(tmp_path, b"\xff\xfe"))


def test_a_secret_that_went_away_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"password file .* cannot be read .*; wanted a readable text file"):
        read_secret(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_a_secret_of_nothing_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="contains nothing; wanted one password"):
        read_secret(secret_file(tmp_path, content))


def test_a_secret_without_an_end_is_not_read_to_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contains more than 65536 characters"):
        read_secret(secret_file(tmp_path, b"x" * 70_000))
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_secret(Path("/dev/zero"))


# Who may read them


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o620, 0o777])
@pytest.mark.parametrize("key", ["password_file", "key"])
def test_a_secret_that_others_can_read_is_refused_with_what_mends_it(tmp_path: Path, key: str, mode: int) -> None:
    path = secret_file(tmp_path, mode=mode)
    told = refusal(tmp_path, {"url": "mqtts://h", "username": "u", key: str(path)})
    assert f"[mqtt] {key}: {path} can be read or changed by others (mode {mode:04o})" in told
    assert told.endswith(f"chmod 600 {path}")
    path.chmod(0o600)
    assert load(tmp_path, {"username": "u", "password_file": str(path)}).mqtt.credentials() == ("u", "S3cret")


def test_a_cameras_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    camera = {"source": "rtsp://127.0.0.1/main", "model": "conveyor", "username": "v"}
    camera["password_file"] = str(secret_file(tmp_path, mode=0o644))
    with pytest.raises(ConfigError, match=r"\[streams.door\] password_file: .* chmod 600 "):
        load_config(write_config(tmp_path / "edge.toml", "mqtt://127.0.0.1", {"streams.door": camera}))


def test_a_secret_that_was_opened_to_others_later_is_not_read(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    mqtt = load(tmp_path, {"username": "u", "password_file": str(path)}).mqtt
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read or changed by others"):
        mqtt.credentials()


def test_what_root_hands_to_a_service_through_its_group_is_no_others() -> None:
    assert not is_public(0o100640, owner=0, reader=990)
    assert is_public(0o100644, owner=0, reader=990)
    assert is_public(0o100660, owner=0, reader=990)
    assert is_public(0o100640, owner=0, reader=0), "root's own secrets have no group"
    assert is_public(0o100640, owner=1000, reader=990)


# What systemd hands over


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder that systemd makes for LoadCredential=, with modes as systemd sets them."""
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_a_credential_of_systemd_is_named_in_the_configuration(tmp_path: Path, credentials: Path) -> None:
    (credentials / "mqtt-password").write_text("S3cret\n", encoding="utf-8")
    (credentials / "mqtt-password").chmod(0o440)
    mqtt = load(tmp_path, {"username": "u", "password_file": "credential:mqtt-password"}).mqtt
    assert mqtt.credentials() == ("u", "S3cret")


def test_a_link_in_the_credentials_folder_opens_no_other_file(tmp_path: Path, credentials: Path) -> None:
    (credentials / "mqtt-password").symlink_to(secret_file(tmp_path, mode=0o644))
    told = refusal(tmp_path, {"username": "u", "password_file": "credential:mqtt-password"})
    assert "can be read or changed by others" in told


@pytest.mark.parametrize("name", ["../password", "a/b", "", ".", "..", "x" * 300, "a\0b", "a\nb"])
def test_a_name_that_no_credential_can_have_is_refused(tmp_path: Path, credentials: Path, name: str) -> None:
    secret_file(tmp_path)
    told = refusal(tmp_path, {"username": "u", "password_file": f"credential:{name}"})
    assert told.startswith(f"{tmp_path / 'edge.toml'}: [mqtt] password_file: found ")


def test_a_credential_that_is_not_there_is_a_sentence(tmp_path: Path, credentials: Path) -> None:
    told = refusal(tmp_path, {"username": "u", "password_file": "credential:mqtt-password"})
    assert "contains no credential mqtt-password; wanted LoadCredential=mqtt-password:PATH" in told


def test_without_systemd_a_credential_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    told = refusal(tmp_path, {"username": "u", "password_file": "credential:mqtt-password"})
    assert "credential mqtt-password comes from systemd alone" in told
    assert "LoadCredential=mqtt-password:PATH" in told


# What belongs together


def test_a_password_without_a_user_is_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"password_file": str(secret_file(tmp_path))})
    assert told.endswith("[mqtt]: password_file is set without username; wanted both")
    assert (
        load(tmp_path, {"url": "mqtt://u@h", "password_file": str(secret_file(tmp_path))}).mqtt.credentials()[0] == "u"
    )
