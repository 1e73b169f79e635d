"""What our source uses of TensorRT, pycuda and cuda-bindings exists there: in each of the real bindings that we serve.

The bindings are imported without the libraries behind them, so neither a GPU nor TensorRT is needed.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.support.bindings.downloads import HERE, fetched, run_python, surface_of, with_stub_libraries
from tests.support.bindings.uses import CUDART, PYCUDA, STREAMS, TENSORRT, Surface, Use, collect, missing, offers

ROOT = Path(__file__).parents[2]
BACKENDS = ROOT / "edge" / "inference" / "backends"
EMULATION = Path(__file__).parents[1] / "support" / "emulated_cuda"
# JetPack 6, 7.0, 7.2, and the first that drops what 10 had.
TENSORRT_VERSIONS = {
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.13.3.9": "tensorrt-cu13-bindings==10.13.3.9.post1",
    "10.16.1.11": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
CUDA_BINDINGS = {"12": "cuda-bindings>=12.9,<13", "13": "cuda-bindings>=13,<14"}
RTX = "tensorrt_rtx_bindings"
PYCUDA_RECORD = HERE / "pycuda-2026.1.json"
# Names that are our own things in a file.
OUR_OWN = {"engine.py": {"execution"}}  # there an Execution of execution.py, which holds the library's
# What runs where TensorRT-RTX serves: building, not running.
BUILDING = ("tensorrt/builder.py", "tensorrt/library.py")


def uses_in(files: Iterable[Path], receivers: Iterable[str]) -> list[Use]:
    return [
        use
        for path in sorted(files)
        for use in collect(path.read_text(encoding="utf-8"), receivers, str(path.relative_to(ROOT)))
    ]


def uses_of_tensorrt(files: Iterable[Path]) -> list[Use]:
    """Return the uses in those files that have to do with TensorRT at all."""
    found = []
    for path in sorted(files):
        uses = uses_in([path], TENSORRT.keys() - OUR_OWN.get(path.name, set()))
        if {"trt", "cuda_engine"} & {use.receiver for use in uses}:
            found += uses
    return found


@functools.lru_cache
def tensorrt_folder(version: str) -> Path:
    return fetched(f"tensorrt-{version}", [TENSORRT_VERSIONS[version]])


@functools.lru_cache
def tensorrt(version: str) -> Surface:
    folder = tensorrt_folder(version)
    return surface_of("tensorrt_bindings", [folder], with_stub_libraries(folder))


@functools.lru_cache
def cudart(major: str) -> Surface:
    folder = fetched(f"cuda-bindings-{major}", [CUDA_BINDINGS[major], "cuda-pathfinder"])
    return surface_of("cuda.bindings.runtime", [folder])


@functools.lru_cache
def pycuda() -> Surface:
    surface: Surface = json.loads(PYCUDA_RECORD.read_text(encoding="utf-8"))["surface"]
    return surface


@pytest.mark.parametrize("version", TENSORRT_VERSIONS)
def test_all_that_is_used_of_tensorrt_is_in_each_version(version: str) -> None:
    uses = uses_of_tensorrt(BACKENDS.rglob("*.py"))
    assert {"builder", "config", "cuda_engine", "execution", "network", "parser", "trt"} <= {u.receiver for u in uses}
    assert missing(tensorrt(version), uses, TENSORRT) == []


def test_what_not_every_version_has_is_in_one_of_them_at_least() -> None:
    guarded = [use for use in uses_of_tensorrt(BACKENDS.rglob("*.py")) if use.is_guarded]
    surfaces = [tensorrt(version) for version in TENSORRT_VERSIONS]
    nowhere = [use for use in guarded if not any(offers(each, TENSORRT[use.receiver], use) for each in surfaces)]
    assert nowhere == []


@pytest.mark.parametrize("version", TENSORRT_VERSIONS)
def test_every_way_to_build_sets_flags_that_the_version_has(version: str) -> None:
    folder = tensorrt_folder(version)
    program = """if True:
        import json, tensorrt_bindings as trt
        from edge.inference.backends.tensorrt.builder import build_strategies
        from edge.inference.backends.tensorrt.build_protocol import BuildSettings
        known = {*trt.BuilderFlag.__members__, *trt.NetworkDefinitionCreationFlag.__members__}
        settings = [BuildSettings(p, d, 1, 3, 64) for p, d in (("fp32", "gpu"), ("fp16", "gpu"), ("fp16", "dla0"))]
        print(json.dumps([sorted({*flags} - known) for each in settings for flags in build_strategies(trt, each)]))
    """
    unknown = json.loads(run_python(["-c", program], [ROOT, folder], with_stub_libraries(folder)))
    assert len(unknown) >= 3
    assert all(each == [] for each in unknown)


def test_all_that_building_uses_is_in_tensorrt_rtx() -> None:
    if importlib.util.find_spec(RTX) is None:
        pytest.skip("TensorRT-RTX is not installed: pip install '.[rtx]'")
    uses = uses_of_tensorrt(BACKENDS / name for name in BUILDING)
    surface = surface_of(RTX, [])
    assert missing(surface, uses, TENSORRT) == []


def test_all_that_is_used_of_pycuda_is_in_it() -> None:
    uses = uses_in([BACKENDS / "cuda.py"], PYCUDA) + uses_in(BACKENDS.rglob("*.py"), STREAMS)
    assert {"driver", "context", "device", "stream", "function", "allocation"} <= {use.receiver for use in uses}
    assert missing(pycuda(), uses, PYCUDA) == []
    assert [use for use in uses if use.is_guarded and not offers(pycuda(), PYCUDA[use.receiver], use)] == []


def test_the_record_of_pycuda_agrees_with_the_one_installed() -> None:
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed, which has to be built: pip install '.[jetson]'")
    uses = uses_in([BACKENDS / "cuda.py"], PYCUDA) + uses_in(BACKENDS.rglob("*.py"), STREAMS)
    assert missing(surface_of("pycuda.driver", []), uses, PYCUDA) == []


@pytest.mark.parametrize("major", CUDA_BINDINGS)
def test_all_that_is_used_of_cuda_bindings_is_in_both_majors(major: str) -> None:
    uses = uses_in(BACKENDS.rglob("*.py"), CUDART)
    assert "cudaGraphLaunch" in {use.member for use in uses}
    assert missing(cudart(major), uses, CUDART) == []


# The emulation must not offer what the real bindings have not: code that runs on it alone would not be noticed.


@functools.lru_cache
def emulated(module: str, version: str = "10.3.0.30") -> dict[str, set[str]]:
    """Return the public names of an emulated module, and the members that the emulation itself gives them."""
    program = f"""if True:
        import importlib, inspect, json
        module = importlib.import_module({module!r})
        names = [name for name in dir(module) if not name.startswith("_") and name != "emulation"]
        def own(thing):
            if not inspect.isclass(thing):
                return []
            if hasattr(thing, "__members__"):
                return list(thing.__members__)
            classes = [base for base in thing.__mro__ if base.__module__.startswith("emulation")]
            return sorted({{n for base in classes for n in vars(base) if not n.startswith("_")}})
        print(json.dumps({{name: own(getattr(module, name)) for name in names}}))
    """
    controls = {"EDGE_EMULATION": json.dumps({"tensorrt_version": version})}
    told = json.loads(run_python(["-c", program], [EMULATION], more=controls))
    return {name: set(members) for name, members in told.items()}


def surplus(played: Mapping[str, set[str]], real: Surface) -> list[str]:
    names = [name for name in played if name not in real]
    members = [
        f"{name}.{member}"
        for name, its in played.items()
        if name in real
        for member in its
        if member not in real[name]["members"]
    ]
    return sorted(names + members)


@pytest.mark.parametrize(("version", "played"), [("10.3.0", "10.3.0.30"), ("11.4.0.106", "11.4.0.106")])
def test_the_emulated_tensorrt_offers_nothing_that_the_real_one_has_not(version: str, played: str) -> None:
    assert surplus(emulated("tensorrt", played), tensorrt(version)) == []


def test_the_emulated_pycuda_offers_nothing_that_the_real_one_has_not() -> None:
    assert surplus(emulated("pycuda.driver"), pycuda()) == []


@pytest.mark.parametrize("major", CUDA_BINDINGS)
def test_the_emulated_cuda_bindings_offer_nothing_that_the_real_ones_have_not(major: str) -> None:
    assert surplus(emulated("cuda.bindings.runtime"), cudart(major)) == []


@pytest.mark.parametrize(("version", "played"), [("10.3.0", "10.3.0.30"), ("11.4.0.106", "11.4.0.106")])
def test_the_emulated_enums_have_the_values_of_the_real_ones(version: str, played: str) -> None:
    program = """if True:
        import importlib, json, sys
        module = importlib.import_module(sys.argv[1])
        enums = {n: getattr(module, n) for n in dir(module) if hasattr(getattr(module, n), "__members__")}
        print(json.dumps({n: {m: int(v) for m, v in e.__members__.items()} for n, e in enums.items()}))
    """
    folder = tensorrt_folder(version)
    real = json.loads(run_python(["-c", program, "tensorrt_bindings"], [folder], with_stub_libraries(folder)))
    controls = {"EDGE_EMULATION": json.dumps({"tensorrt_version": played})}
    ours = json.loads(run_python(["-c", program, "tensorrt"], [EMULATION], more=controls))
    wrong = {
        f"{enum}.{member}": (value, real[enum].get(member))
        for enum, members in ours.items()
        for member, value in members.items()
        if real[enum].get(member) != value
    }
    assert wrong == {}


# The collector itself.

SOURCE = """
def guarded(config, trt):
    if hasattr(config, "max_aux_streams"):
        config.max_aux_streams = 0
    if hasattr(trt.BuilderFlag, "FP16"):
        return trt.BuilderFlag.FP16
    return getattr(trt, "IRuntimeConfig", None)

def plain(self, trt):
    config = self._builder.create_builder_config()
    config.max_aux_streams = 0
    self._engine.cuda_engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    return bits(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", *self._more), getattr(config, "flags")

class Logger(trt.ILogger):
    def __init__(self):
        settings.config_of(x).name = 1
"""


def test_the_collector_finds_what_is_used_and_how() -> None:
    found = {(use.name, use.is_guarded) for use in collect(SOURCE, TENSORRT)}
    assert found == {
        ("builder.create_builder_config", False),
        ("config.flags", False),
        ("config.max_aux_streams", False),  # in `plain`
        ("config.max_aux_streams", True),  # in `guarded`
        ("cuda_engine.create_execution_context", False),
        ("trt.BuilderFlag.FP16", True),
        ("trt.ExecutionContextAllocationStrategy.USER_MANAGED", False),
        ("trt.ILogger", False),
        ("trt.IRuntimeConfig", True),
        ("trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED", True),
    } | {(name, False) for name in ("trt.BuilderFlag", "trt.NetworkDefinitionCreationFlag")}


SMALL: Surface = {
    "IBuilderConfig": {"signatures": [], "members": {"set_flag": ["set_flag(self: X, flag: BuilderFlag) -> None"]}},
    "BuilderFlag": {"signatures": [], "members": {"TF32": []}},
}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("config.set_flag(trt.BuilderFlag.TF32)", []),
        ("config.set_flag(flag=trt.BuilderFlag.TF32)", []),
        ("config.set_flags(1)", ["<source>:1: config.set_flags"]),
        ("config.set_flag(flags=1)", ["<source>:1: config.set_flag(flags)"]),
        ("trt.BuilderFlag.TF23", ["<source>:1: trt.BuilderFlag.TF23"]),
        ("trt.BuildFlag", ["<source>:1: trt.BuildFlag"]),
        ("def f(): return hasattr(config, 'x') and config.x", []),
        ("def f(): hasattr(config, 'x')\ndef g(): config.x", ["<source>:2: config.x"]),
    ],
)
def test_a_misspelt_name_is_told_with_its_place(source: str, told: list[str]) -> None:
    assert missing(SMALL, collect(source, TENSORRT), TENSORRT) == told


def test_a_misspelt_name_in_our_source_would_be_found() -> None:
    """Break each use of a member once: one letter more, and every version must miss it."""
    uses = uses_of_tensorrt(BACKENDS.rglob("*.py"))
    surface = tensorrt("10.3.0")
    broken = [Use(use.receiver, use.member + "x", use.place) for use in uses]
    assert len(missing(surface, broken, TENSORRT)) == len(broken)
