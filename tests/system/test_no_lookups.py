"""Nothing phones home: no name is looked up and no address outside of this machine is called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.process import clean_environment, edge_command

# Stands before libc's functions, so that native libraries are heard too.
STUB = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void note(const char *what) {
    FILE *file = fopen(getenv("LOOKUPS"), "a");
    if (file) { fprintf(file, "%s\n", what); fclose(file); }
}
static int is_numeric(const char *name) {
    unsigned char address[16];
    return !name || inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
}
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (is_numeric(name)) return real(name, service, hints, found);
    note(name);
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *name) { note(name); return NULL; }
struct hostent *gethostbyname2(const char *name, int family) { (void)family; note(name); return NULL; }
int connect(int handle, const struct sockaddr *to, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    char text[64] = "";
    if (to->sa_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)to)->sin_addr, text, sizeof text);
    if (to->sa_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *)to)->sin6_addr, text, sizeof text);
    if (text[0] && strncmp(text, "127.", 4) && strcmp(text, "::1")) note(text);
    return real(handle, to, length);
}
"""

CONFIG = """
[mqtt]
url = "mqtt://{broker}:1"
[models.conveyor]
path = "conveyor"
[streams.line]
source = "synthetic://conveyor?frames=20"
model = "conveyor"
delivery = "every"
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a library that records the names and addresses that a program asks for."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler: apt-get install gcc")
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub.c").write_text(STUB, encoding="utf-8")
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "stub.so"), str(folder / "stub.c"), "-ldl"]
    subprocess.run(command, check=True)
    return folder / "stub.so"


def lookups(stub: Path, folder: Path, *arguments: str | Path) -> set[str]:
    """Run a command; return the names and addresses that it asked for."""
    log = folder / "lookups"
    log.unlink(missing_ok=True)
    environment = clean_environment({"LD_PRELOAD": str(stub), "LOOKUPS": str(log), "HOME": str(folder)})
    command = edge_command(*arguments, "--state-dir", folder / "state")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return set(log.read_text(encoding="utf-8").split()) if log.exists() else set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect", "conveyor", "synthetic://conveyor", "--frames", "3"),
        ("run", "edge.toml"),
        ("check", "edge.toml"),
        ("engines", "list"),
        ("bench", "conveyor", "--quick", "--frames", "3"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_no_command_asks_for_anything_beyond_its_configuration(
    arguments: tuple[str, ...], stub: Path, tmp_path: Path
) -> None:
    (tmp_path / "edge.toml").write_text(CONFIG.format(broker="127.0.0.1"), encoding="utf-8")
    assert lookups(stub, tmp_path, *arguments) == set()


def test_a_name_in_the_configuration_is_heard(stub: Path, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(CONFIG.format(broker="broker.invalid"), encoding="utf-8")
    assert lookups(stub, tmp_path, "check", "edge.toml") == {"broker.invalid"}
