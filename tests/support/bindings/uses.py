"""Collects from our source what it uses of a library, by the names that the library's objects have there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

# What our source calls things of TensorRT, by file and function alike; `trt` is the module itself.
TENSORRT = {
    "trt": ("",),
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "parser_error": ("ParserError",),
    "config": ("IBuilderConfig",),
    "profile": ("IOptimizationProfile",),
    "timing_cache": ("ITimingCache",),
    "host_memory": ("IHostMemory",),
    "runtime": ("Runtime",),
    "cuda_engine": ("ICudaEngine",),
    "execution": ("IExecutionContext",),
    "inspector": ("EngineInspector",),
    "layer": ("ILayer",),
    "tensor": ("ITensor",),
}
# Likewise of pycuda; where a name stands for two things, one of them must have the member.
STREAMS = {
    "stream": ("Stream",),
    "event": ("Event",),
    "started": ("Event",),
    "uploaded": ("Event",),
    "computed": ("Event",),
    "downloaded": ("Event",),
}
PYCUDA = STREAMS | {
    "driver": ("",),
    "context": ("Context",),
    "device": ("Device", "DeviceAllocation"),
    "attribute": ("device_attribute",),
    "allocation": ("PagelockedHostAllocation", "DeviceAllocation"),
    "function": ("Function",),
    "module": ("Module",),
}
CUDART = {"cudart": ("",)}
_MODULES = ("trt", "driver", "cudart")


class Offer(TypedDict):
    """What surface.py tells of a name."""

    signatures: list[str]
    members: Mapping[str, list[str]]


Surface = Mapping[str, Offer]


@dataclass(frozen=True, order=True)
class Use:
    """A member that our source names: `execution.infer_shapes`, `trt.DataType.HALF`."""

    receiver: str
    member: str
    place: str
    is_guarded: bool = False  # it need not be there in every version
    keywords: tuple[str, ...] = ()  # of a call

    @property
    def name(self) -> str:
        return f"{self.receiver}.{self.member}"


def collect(source: str, receivers: Iterable[str], file: str = "<source>") -> list[Use]:
    """Return what a file uses of these receivers."""
    collector = _Collector(set(receivers), file)
    collector.visit(ast.parse(source))
    return sorted(collector.finished())


class _Collector(ast.NodeVisitor):
    def __init__(self, receivers: set[str], file: str) -> None:
        self._receivers = receivers
        self._file = file
        self._uses: list[tuple[Use, tuple[int, ...]]] = []
        self._guards: set[tuple[int, str, str]] = set()  # function, receiver, member
        self._functions: list[int] = [0]
        self._seen: set[int] = set()

    def finished(self) -> list[Use]:
        """Return the uses; guarded is what a function round it asks for with hasattr."""
        return [
            Use(use.receiver, use.member, use.place, use.is_guarded or self._is_asked(use, functions), use.keywords)
            for use, functions in self._uses
        ]

    def _is_asked(self, use: Use, functions: tuple[int, ...]) -> bool:
        return any((function, use.receiver, use.member) in self._guards for function in functions)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions.append(id(node))
        self.generic_visit(node)
        self._functions.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815 -- the visitor's names

    def visit_Call(self, node: ast.Call) -> None:
        """Take guards, names that are strings, and the keywords of a call."""
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if called in ("hasattr", "getattr", "bits") and node.args and (chain := self._chain(node.args[0])):
            self._take_strings(called, node, *chain)
        if isinstance(node.func, ast.Attribute) and (chain := self._chain(node.func)) and chain[1]:
            keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
            self._add(*chain, node.lineno, keywords=keywords)
            self._seen.add(id(node.func))
        self.generic_visit(node)

    def _take_strings(self, called: str, node: ast.Call, receiver: str, member: str) -> None:
        for argument in node.args[1:] if called == "bits" else node.args[1:2]:
            if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                continue
            whole = f"{member}.{argument.value}" if member else argument.value
            if called == "hasattr":
                self._guards.update((function, receiver, whole) for function in self._functions[1:])
            is_guarded = called != "getattr" or len(node.args) > 2
            self._add(receiver, whole, node.lineno, is_guarded=is_guarded)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if id(node) not in self._seen and (chain := self._chain(node)) and chain[1]:
            self._add(*chain, node.lineno)
            return  # its beginning is part of it
        self.generic_visit(node)

    def _chain(self, node: ast.expr) -> tuple[str, str] | None:
        """Return receiver and members of `receiver.a.b`; of TensorRT's objects one member, of modules the whole."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            receiver = node.attr.lstrip("_")
            if receiver in self._receivers:
                return _cut(receiver, names)
            names.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id.lstrip("_") in self._receivers:
            return _cut(node.id.lstrip("_"), names)
        return None

    def _add(
        self, receiver: str, member: str, line: int, *, is_guarded: bool = False, keywords: tuple[str, ...] = ()
    ) -> None:
        use = Use(receiver, member, f"{self._file}:{line}", is_guarded, keywords)
        self._uses.append((use, tuple(self._functions[1:])))


def _cut(receiver: str, names: list[str]) -> tuple[str, str]:
    """Return what of a chain is told by the library: a module's class with its member, else one member."""
    return receiver, ".".join(names[:2] if receiver in _MODULES else names[:1])


def offers(surface: Surface, kinds: Iterable[str], use: Use) -> bool:
    """Tell whether a surface has what is used, with the keywords of the call where its signature is told."""
    return any(_offers(surface, kind, use) for kind in kinds)


def _offers(surface: Surface, kind: str, use: Use) -> bool:
    first, _, second = (f"{kind}.{use.member}" if kind else use.member).partition(".")
    if first not in surface:
        return False
    if second and second not in surface[first]["members"]:
        return False
    told = surface[first]["members"][second] if second else surface[first]["signatures"]
    # pybind11 tells (*args, **kwargs) of a function with several signatures, which follow it.
    return not told or all(
        any(re.search(rf"\b{keyword}\b", signature) for signature in told) for keyword in use.keywords
    )


def missing(surface: Surface, uses: Iterable[Use], receivers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return what every version must have and this one has not."""
    return [
        f"{use.place}: {use.name}{'(' + ', '.join(use.keywords) + ')' if use.keywords else ''}"
        for use in uses
        if not use.is_guarded and not offers(surface, receivers[use.receiver], use)
    ]
