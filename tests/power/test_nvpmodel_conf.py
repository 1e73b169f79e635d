"""Parsing nvpmodel.conf and nvpmodel's answers, with their quirks, for every emulated board."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.power import edge_power
from edge.power.edge_power import Conf, Mode, PowerError, parse_conf, parse_query, parse_request, read_conf, resolved
from tests.support.emulated_boards.power_modes import BOARDS, PowerBoard, Row, conf_text, write_power_modes

GROUPS = {
    "tx2": [[0, 1, 2, 3, 4]],
    "xavier-nx": [[0, 1, 2, 3, 4, 5, 6, 7, 8]],
    "agx-xavier": [[0, 2, 3, 4, 5, 6, 7], [1]],
    "orin-nano": [[0], [1]],
    "orin-nano-super": [[0, 1, 2], [3]],
    "orin-nx": [[0, 3], [1, 2]],
    "orin-nx-super": [[0, 3, 4], [1, 2]],
    "agx-orin": [[0, 3], [1], [2]],
    "thor": [[0, 1], [2, 3]],
}

# Lines as L4T 28 had them: a mode names paths, no section names parameters.
RAW_PATHS = """
# MAXN is the mode without limits
< POWER_MODEL ID=0 NAME=MAXN >
/sys/devices/system/cpu/cpu1/online 1
/sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq 0
/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq 2035200
/sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq 2035200
/sys/devices/17000000.gp10b/devfreq/17000000.gp10b/max_freq 1300500000
/sys/kernel/nvpmodel_emc_cap/emc_iso_cap 0
< POWER_MODEL ID=1 NAME=MAXQ >
/sys/devices/system/cpu/cpu1/online 0
/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq 1200000
/sys/devices/17000000.gp10b/devfreq/17000000.gp10b/min_freq 0
/sys/devices/17000000.gp10b/devfreq/17000000.gp10b/max_freq 850000000
/sys/kernel/nvpmodel_emc_cap/emc_iso_cap 1331200000
< PM_CONFIG DEFAULT=1 >
"""


def modes(*lines: str) -> tuple[Mode, ...]:
    return parse_conf("\n".join(lines)).modes


def refusal(*lines: str) -> str:
    with pytest.raises(PowerError) as raised:
        parse_conf("\n".join(lines))
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


def cap(message: float | tuple[float, ...] | None) -> float | None:
    caps = message if isinstance(message, tuple) else (message,)
    return max(caps, key=lambda each: each or 0) or None


@pytest.mark.parametrize("board", BOARDS)
def test_every_boards_modes_are_read_with_their_caps(
    board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = write_power_modes(tmp_path, board)
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    conf = read_conf()
    assert conf is not None
    assert (conf.file, conf.default) == (described.conf, described.default)
    assert [mode.id for mode in conf.modes] == [row.id for row in described.rows]
    for mode, row in zip(conf.modes, described.rows, strict=True):
        assert (mode.name, mode.cores) == (row.name, len(row.cores) or None)
        assert mode.cpu_max_mhz == cap(row.cpu_mhz)
        assert mode.gpu_max_mhz == cap(row.gpu_mhz)
        assert mode.emc_max_mhz == cap(row.emc_mhz)
        assert mode.dla_max_mhz == cap(row.dla_mhz)
        message = {"cpu": row.cpu_mhz, "gpu": row.gpu_mhz, "emc": row.emc_mhz, "dla": row.dla_mhz}
        assert mode.unstated == {unit for unit, value in message.items() if value is None}


@pytest.mark.parametrize("board", BOARDS)
def test_the_masks_tell_which_modes_need_a_reboot(board: str) -> None:
    assert parse_conf(conf_text(BOARDS[board])).reboot_groups() == GROUPS[board]


def test_a_file_of_l4t_28_names_paths_in_its_modes() -> None:
    conf = parse_conf(RAW_PATHS)
    unstated = frozenset({"dla"})
    assert conf.modes == (
        Mode(0, "MAXN", 2, 2035.2, 1300.5, None, unstated=unstated),
        Mode(1, "MAXQ", 1, 1200, 850, 1331.2, unstated=unstated),
    )
    assert conf.default == 1


def test_a_header_needs_no_blanks_and_a_name_may_have_some() -> None:
    (mode,) = modes(
        "<PARAM TYPE=CLOCK NAME=GPU >", "MAX_FREQ /sys/x", "<POWER_MODEL ID=7 NAME=MY OWN 12W>", "GPU MAX_FREQ 5000000"
    )
    assert (mode.id, mode.name, mode.gpu_max_mhz) == (7, "MY OWN 12W", 5)


def test_minus_one_and_a_cap_of_zero_on_memory_mean_no_cap() -> None:
    (mode,) = modes("< POWER_MODEL ID=0 NAME=A >", "GPU MAX_FREQ -1", "EMC MAX_FREQ 0", "CPU_A57 MAX_FREQ 2147483647")
    assert (mode.gpu_max_mhz, mode.emc_max_mhz, mode.cpu_max_mhz) == (None, None, None)
    assert mode.unstated == {"dla"}


def test_memory_faster_than_two_gigahertz_is_capped() -> None:
    (mode,) = modes("< POWER_MODEL ID=0 NAME=A >", "EMC MAX_FREQ 3199000000")
    assert mode.emc_max_mhz == 3199


def test_the_first_core_counts_where_it_is_not_named() -> None:
    (mode,) = modes("< POWER_MODEL ID=0 NAME=A >", "CPU_ONLINE CORE_1 0", "CPU_ONLINE CORE_2 1")
    assert mode.cores == 2


def test_a_cluster_that_is_off_does_not_raise_the_clock() -> None:
    (mode,) = modes(
        "< PARAM TYPE=CLOCK NAME=CPU_FAST >",
        "MAX_FREQ /sys/devices/system/cpu/cpu4/cpufreq/scaling_max_freq",
        "< POWER_MODEL ID=0 NAME=A >",
        "CPU_ONLINE CORE_0 1",
        "CPU_ONLINE CORE_4 0",
        "CPU_SLOW MAX_FREQ 1000000",
        "CPU_FAST MAX_FREQ -1",
    )
    assert mode.cpu_max_mhz == 1000


def test_ids_may_have_gaps_and_names_may_repeat() -> None:
    conf = parse_conf("< POWER_MODEL ID=9 NAME=A >\n< POWER_MODEL ID=2 NAME=A >")
    assert [mode.id for mode in conf.modes] == [9, 2]
    assert conf.default is None


def test_comments_and_unknown_sections_say_nothing() -> None:
    found = modes(
        "# < POWER_MODEL ID=5 NAME=NOT >", "< FAN_CONFIG DEFAULT=quiet >", "anything", "< POWER_MODEL ID=0 NAME=A > # B"
    )
    assert [mode.name for mode in found] == ["A"]


def test_masks_are_kept_in_any_notation_and_by_any_path() -> None:
    one, other = modes(
        "< PARAM TYPE=FILE NAME=X >",
        "Y_KNEXT /sys/devices/platform/gpu.0/fbp_pg_mask",
        "< POWER_MODEL ID=0 NAME=A >",
        "TPC_POWER_GATING TPC_PG_MASK 0xf0",
        "X Y 1",
        "< POWER_MODEL ID=1 NAME=B >",
        "TPC_POWER_GATING TPC_PG_MASK 240",
        "X Y 1",
    )
    assert one.masks == other.masks == (("FBP_PG_MASK", 1), ("TPC_PG_MASK", 240))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "contains no power mode"),
        (["garbage"], "line 1: 'garbage' is not understood (outside any section)"),
        (["< POWER_MODEL ID=x NAME=A >"], "wanted a number, found 'x'"),
        (["< POWER_MODEL ID=-1 NAME=A >"], "wanted a number"),
        (["< POWER_MODEL ID=1 >"], "lacks 'NAME'"),
        (["< POWER_MODEL NAME=A >"], "lacks 'ID'"),
        (["< POWER_MODEL ID=1 NAME=A"], "wanted < NAME KEY=value … >"),
        (["< POWER_MODEL ID=1 NAME=A >", "GPU MAX_FREQ fast"], "line 2"),
        (["< POWER_MODEL ID=1 NAME=A >", "GPU MAX_FREQ"], "line 2"),
        (["< POWER_MODEL ID=1 NAME=A >", "GPU MAX_FREQ " + "9" * 4000], "line 2"),
        (["< POWER_MODEL ID=1 NAME=A >", "TPC TPC_PG_MASK many"], "line 2"),
        (["< POWER_MODEL ID=1 NAME=A >", "< POWER_MODEL ID=1 NAME=B >"], "2 power modes with id 1"),
        (["< POWER_MODEL ID=1 NAME=A >", "< PM_CONFIG DEFAULT=2 >"], "contains no mode 2, which is its default"),
        (["< POWER_MODEL ID=1 NAME=A >", "< PM_CONFIG DEFAULT=first >"], "wanted a number"),
    ],
)
def test_garbage_is_one_sentence(lines: list[str], message: str) -> None:
    assert message in refusal(*lines)


@given(st.text(alphabet=st.sampled_from("<> =#/POWERMODLNAIDCGUTSKFQ_019-\n\t\x00é"), max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    message = ""
    try:
        assert parse_conf(text).modes
    except PowerError as error:
        message = str(error)
    assert "\n" not in message


_rows = st.builds(
    Row,
    id=st.integers(0, 99),
    name=st.text(alphabet="ABC_0123W", min_size=1, max_size=12),
    cores=st.sets(st.integers(0, 7), min_size=1).map(lambda cores: tuple(sorted(cores | {0}))),
    cpu_mhz=st.one_of(st.none(), st.integers(0, 3000)),
    gpu_mhz=st.one_of(st.none(), st.integers(0, 3000)),
    emc_mhz=st.one_of(st.none(), st.integers(0, 5000)),
    dla_mhz=st.none(),
    mask=st.one_of(st.none(), st.integers(0, 2**32)),
)


@given(st.lists(_rows, min_size=1, max_size=6, unique_by=lambda row: row.id), st.booleans(), st.booleans())
def test_what_is_written_is_read(rows: list[Row], tight: bool, next_kernel: bool) -> None:  # noqa: FBT001 -- drawn
    board = PowerBoard(
        "drawn",
        "nvpmodel.conf",
        tuple(rows),
        rows[0].id,
        clusters={"CPU_A": 0},
        cores=8,
        gpu="/sys/devices/17000000.gv11b/devfreq/17000000.gv11b/max_freq",
        mask=("TPC_POWER_GATING", "TPC_PG_MASK", "/sys/devices/gpu.0/tpc_pg_mask"),
        tight=tight,
        next_kernel=next_kernel,
    )
    conf = parse_conf(conf_text(board))
    assert conf.default == rows[0].id
    for mode, row in zip(conf.modes, rows, strict=True):
        assert (mode.id, mode.name, mode.cores) == (row.id, row.name, len(row.cores))
        assert (mode.cpu_max_mhz, mode.gpu_max_mhz) == (cap(row.cpu_mhz), cap(row.gpu_mhz))
        assert mode.emc_max_mhz == cap(row.emc_mhz)
        assert dict(mode.masks) == ({} if row.mask is None else {"TPC_PG_MASK": row.mask})
    together = sorted(each for group in conf.reboot_groups() for each in group)
    assert together == sorted(row.id for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        "NV Power Mode: MODE_30W\n2\n",
        "NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_30W\n2\n",
        "NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n",
        "NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\nNV Power Mode: MODE_30W\n2\n",
        "NV Power Mode: MODE_30W\nNVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\r\n2",
        "NV Power Mode: MODE_30W\n2\nNVPM VERB: PARAM GPU: ARG MAX_FREQ: PATH /sys/x: REAL_VAL: 1 CONF_VAL: 1\n7\n",
    ],
)
def test_the_mode_is_found_among_whatever_else_nvpmodel_says(text: str) -> None:
    assert parse_query(text) == (2, "MODE_30W")


@pytest.mark.parametrize("text", ["", "NVPM ERROR: failed\n", "NV Power Mode:\n", "Mode 7\n"])
def test_no_mode_is_made_up(text: str) -> None:
    assert parse_query(text) == (None, None)


@given(st.text(max_size=200))
def test_any_answer_of_nvpmodel_is_read(text: str) -> None:
    parse_query(text)


def test_absolute_links_are_followed_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").write_text("x")
    (tmp_path / "two").symlink_to("/one")
    (tmp_path / "three").symlink_to("two/../../../one/./file")
    assert resolved("/two/file") == tmp_path / "one/file"
    assert resolved("/three") == tmp_path / "one/file"
    assert resolved("/../../nothing") == tmp_path / "nothing"


def test_a_link_to_itself_and_a_pipe_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    (tmp_path / "etc").mkdir()
    conf = tmp_path / "etc/nvpmodel.conf"
    conf.symlink_to("nvpmodel.conf")
    with pytest.raises(PowerError, match="leads back to itself"):
        read_conf()
    conf.unlink()
    os.mkfifo(conf)
    with pytest.raises(PowerError, match="is not a file"):
        read_conf()


def test_without_a_configuration_there_are_no_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    assert read_conf() is None


@pytest.mark.parametrize(
    ("text", "mode"), [("pmode:0002", 2), ("pmode:0003 fmode:fan_mode_quiet\n", 3), ("", None), ("pmode:", None)]
)
def test_the_stored_mode_is_read(text: str, mode: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    status = tmp_path / "var/lib/nvpmodel/status"
    assert edge_power.stored_mode_id() is None
    status.parent.mkdir(parents=True)
    status.write_text(text)
    assert edge_power.stored_mode_id() == mode


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@given(
    st.one_of(
        st.binary(max_size=100),
        st.dictionaries(
            st.sampled_from(["verb", "mode", "name", "allow_reboot", "x"]),
            st.one_of(json_values, st.sampled_from(["set", "get", "modes"])),
        ).map(lambda asked: json.dumps(asked).encode()),
    )
)
def test_a_request_has_one_of_few_forms_or_is_refused(line: bytes) -> None:
    refused = None
    try:
        request = parse_request(line)
        assert request.verb in ("modes", "get", "set")
        assert [type(each) for each in (request.mode, request.name, request.allow_reboot)] == [int, str, bool]
    except PowerError as error:
        refused = error
    assert refused is None or (refused.kind == "refused" and str(refused).isprintable())


def test_a_mode_is_found_by_its_id_alone() -> None:
    conf = Conf("x.conf", (Mode(4, "A", 1), Mode(9, "B", 1)), None)
    assert conf.mode(9) == Mode(9, "B", 1)
    assert conf.mode(0) is None
