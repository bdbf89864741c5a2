"""Kernels compiled for devices without having one: NVRTC's verdict, the registers and spills of ptxas, double arithmetic.

reports = nvrtc.check(text, ("solve<float>", "solve<double>"))       # sm_75, sm_80, sm_90; raises at a spill
reports["sm_90", "solve<float>"].registers
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

try:
    from cuda.bindings import nvrtc as _nvrtc
except ImportError:  # no cuda-bindings
    _nvrtc = None

__all__ = ["ARCHITECTURES", "NvrtcError", "Report", "SpillError", "check", "compile", "why_not"]

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
# CuPy passes the second and the third one; the others make ptxas tell what it did
OPTIONS = (
    "--std=c++17",
    "--device-as-default-execution-space",
    "-ftz=true",
    "--ptxas-options=-v",
    "--ptxas-options=-warn-spills",
)


class NvrtcError(RuntimeError):
    """NVRTC refuses a source; the message is its log."""


class SpillError(RuntimeError):
    """A kernel keeps registers, or an array that it indexes, in local memory; or it calculates in double by accident."""


@dataclass(frozen=True)
class Report:
    """What became of one instantiation on one architecture; sizes in bytes, per thread but for `shared` (per block)."""

    name: str
    arch: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    doubles: int  # instructions of double arithmetic in its PTX

    @property
    def spills(self) -> bool:
        return self.spill_stores > 0 or self.spill_loads > 0


@functools.cache
def why_not() -> str | None:
    """What is missing, or None."""
    missing = "compiling for CUDA devices needs cuda-bindings and nvidia-cuda-nvrtc: pip install '.[dev]'"
    if _nvrtc is None:
        return missing
    try:
        _nvrtc.nvrtcVersion()
    except RuntimeError:  # the bindings do not find the library
        return missing
    return None


def version() -> str:
    return ".".join(str(part) for part in _call(_nvrtc.nvrtcVersion))


def compile(code: str, name_expressions: Sequence[str], arch: str, options: Sequence[str] = ()) -> list[Report]:
    """All instantiations of one source as one program for one architecture, compiled once in a process."""
    return list(_compile(code, tuple(name_expressions), arch, tuple(options)))


def check(
    code: str,
    name_expressions: Sequence[str],
    *,
    options: Sequence[str] = (),
    archs: Sequence[str] = ARCHITECTURES,
    stack: Collection[str] = (),
    doubles: Collection[str] = (),
) -> dict[tuple[str, str], Report]:
    """Compile for each architecture. SpillError if a register is spilled, if memory of a thread's own is used (an array with
    an index that the compiler does not know), or if a kernel whose name says float and not double has double arithmetic.

    stack, doubles : names, or names of templates, that may have a stack frame, or calculate in double
    """
    reports = {(r.arch, r.name): r for arch in archs for r in compile(code, name_expressions, arch, options)}
    complaints = []
    for r in reports.values():
        known = {r.name, r.name.split("<")[0]}
        if r.spills:
            complaints.append(f"{r.name} on {r.arch} spills: {r.spill_stores} bytes stored, {r.spill_loads} bytes loaded")
        elif r.stack and not known & set(stack):
            complaints.append(f"{r.name} on {r.arch} has a stack frame of {r.stack} bytes: an array is not in registers")
        arguments = re.findall(r"\w+", r.name.partition("<")[2])
        if r.doubles and "float" in arguments and "double" not in arguments and not known & set(doubles):
            complaints.append(
                f"{r.name} on {r.arch} has {r.doubles} instructions of double arithmetic: a literal without T()?"
            )
    if complaints:
        raise SpillError("\n".join(complaints))
    return reports


def _call(function, *arguments):
    """A function of NVRTC; its results without the status, which raises."""
    status, *results = function(*arguments)
    if status != _nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise NvrtcError(f"{function.__name__}: {status.name}")
    return results[0] if len(results) == 1 else results


def _text(program, size, fill) -> str:
    buffer = b" " * _call(size, program)
    _call(fill, program, buffer)
    return buffer.rstrip(b"\0 ").decode()


@functools.cache
def _compile(code: str, names: tuple[str, ...], arch: str, options: tuple[str, ...]) -> tuple[Report, ...]:
    program = _call(_nvrtc.nvrtcCreateProgram, code.encode(), b"kernels.cu", 0, [], [])
    try:
        for name in names:
            _call(_nvrtc.nvrtcAddNameExpression, program, name.encode())
        chosen = [o for o in OPTIONS if not (o.startswith("--std") and any("std=" in given for given in options))]
        arguments = [o.encode() for o in (f"-arch={arch}", *chosen, *options)]
        status = _nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)[0]
        log = _text(program, _nvrtc.nvrtcGetProgramLogSize, _nvrtc.nvrtcGetProgramLog)
        if status != _nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise NvrtcError(f"{arch}: {status.name}\n{log}")
        mangled = {name: _call(_nvrtc.nvrtcGetLoweredName, program, name.encode()).decode() for name in names}
        ptx = _text(program, _nvrtc.nvrtcGetPTXSize, _nvrtc.nvrtcGetPTX)
    finally:
        _nvrtc.nvrtcDestroyProgram(program)
    sections, bodies = _sections(log), _bodies(ptx)
    return tuple(_report(name, arch, sections[entry], bodies[entry]) for name, entry in mangled.items())


def _sections(log: str) -> dict[str, str]:
    """ptxas's lines about each entry function."""
    parts = re.split(r"Compiling entry function '(\w+)'", log)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _bodies(ptx: str) -> dict[str, str]:
    parts = re.split(r"\.entry (\w+)\(", ptx)
    return {name: body.split("\n}\n")[0] for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _report(name: str, arch: str, section: str, body: str) -> Report:
    def number(pattern: str, default: int | None = None) -> int:
        found = re.search(pattern, section)
        if found is None and default is None:
            raise NvrtcError(f"{name} on {arch}: ptxas says nothing of {pattern!r} in\n{section}")
        return int(found[1]) if found else int(default or 0)

    # moving doubles is no arithmetic, and neither is the integer view of one
    doubles = re.findall(r"^\s*(?:@!?%\w+ )?(?!ld|st|mov|selp|setp)\w[\w.]*\.f64\b", body, re.MULTILINE)
    return Report(
        name=name,
        arch=arch,
        registers=number(r"Used (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame"),
        spill_stores=number(r"(\d+) bytes spill stores"),
        spill_loads=number(r"(\d+) bytes spill loads"),
        shared=number(r"(\d+) bytes smem", 0),
        doubles=len(doubles),
    )
