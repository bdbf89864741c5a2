"""EmuModule: the calling shape of cupy.RawModule, on a CPU.

    module = EmuModule(code=text, options=("-std=c++17",), name_expressions=("solve<float>",))
    module.get_function("solve<float>")((4,), (128,), (x, y, np.int32(n)), shared_mem=0)

The text is compiled by g++ as it stands, with cuda_on_cpu.h before it, and each CUDA thread runs as a fiber of its own under
the `Schedule` in force. What a device would let pass in silence raises: see `KernelError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emulator import build

__all__ = ["EmuFunction", "EmuModule", "EmulatorError", "KernelError", "LaunchRecord", "Schedule", "recorded"]


class EmulatorError(RuntimeError):
    """A kernel cannot be compiled, or is called with what it does not take."""


class KernelError(EmulatorError):
    """Something a kernel does that is an error on a device, whether or not the device would say so: memory out of bounds,
    a barrier that not all threads reach, lanes that disagree on a mask, a deadlock, undefined arithmetic."""


@dataclass(frozen=True)
class Schedule:
    """In which order threads and blocks run: a context manager, in force for all launches of the calling thread.

    seed      the random order's; a run is a pure function of text, arguments and schedule
    order     "random", or "forward" or "reverse": thread by thread, each as far as it can go
    resident  blocks alive at once; they start in random order too
    preempt   in random order a thread is interrupted about every so many memory accesses; 0 means at barriers only
    races     whether two accesses, one of them a write, that nothing orders are an error
    uninitialised  whether it is an error to read shared memory that nobody has written to; else the value is NaN or -1
    budget    memory accesses, and switches of threads, after which a launch counts as never ending
    """

    seed: int = 0
    order: str = "random"
    resident: int = 3
    preempt: int = 100
    races: bool = True
    uninitialised: bool = False
    budget: int = 500_000_000
    ORDERS = ("random", "forward", "reverse")

    def __post_init__(self):
        if self.order not in self.ORDERS:
            raise ValueError(f"order must be one of {self.ORDERS}, got {self.order!r}")

    def __enter__(self) -> Schedule:
        _schedules.set((*_schedules.get(), self))
        return self

    def __exit__(self, *_):
        _schedules.set(_schedules.get()[:-1])

    @classmethod
    def several(cls, n: int = 3, seed: int = 0) -> Iterator[Schedule]:
        """Forward, reverse, and n random ones with 1, 3 and 8 resident blocks in turn."""
        yield cls(order="forward", resident=1)
        yield cls(order="reverse", resident=3)
        for i in range(n):
            yield cls(seed=seed + i, resident=(1, 3, 8)[i % 3])


DEFAULT = Schedule()
_schedules: ContextVar[tuple[Schedule, ...]] = ContextVar("schedules", default=(DEFAULT,))


@dataclass(frozen=True)
class LaunchRecord:
    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_mem: int
    module: EmuModule


class Records(list):
    """The launches of a `recorded()` block, in order."""

    def names(self) -> list[str]:
        return [record.name for record in self]

    def count(self, name: str) -> int:  # type: ignore[override]
        """Launches of the kernel of this name, or of all instantiations of the template of this name."""
        return sum(record.name == name or record.name.split("<")[0] == name for record in self)


_listeners: list[Records] = []


@contextlib.contextmanager
def recorded() -> Iterator[Records]:
    """Note every launch that is made in the block, by whomever."""
    records = Records()
    _listeners.append(records)
    try:
        yield records
    finally:
        _listeners[:] = [r for r in _listeners if r is not records]


# -- the compiled runtime ---------------------------------------------------------------------------------------------


class _Argument(ctypes.Structure):
    _fields_ = [("host", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("item", ctypes.c_int), ("kind", ctypes.c_int)]


SCALAR, WRITABLE, READ_ONLY, NULL = range(4)


class _Launch(ctypes.Structure):
    _fields_ = [
        ("run", ctypes.c_void_p),
        ("touch_shared", ctypes.c_void_p),
        ("inside", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(_Argument)),
        ("n_arguments", ctypes.c_int),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("order", ctypes.c_int),
        ("resident", ctypes.c_int),
        ("preempt", ctypes.c_int),
        ("races", ctypes.c_int),
        ("uninitialised", ctypes.c_int),
        ("budget", ctypes.c_longlong),
        ("message", ctypes.c_char * 1024),
        ("line", ctypes.c_char * 40),
        ("where", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
        ("switches", ctypes.c_longlong),
        ("accesses", ctypes.c_longlong),
    ]


_lock = threading.RLock()  # the runtime keeps one launch in progress


def switching() -> str:
    """How fibers are switched here: "assembly", or "ucontext", also chosen by GVAE_EMULATOR_SWITCH."""
    chosen = os.environ.get("GVAE_EMULATOR_SWITCH")
    return chosen or ("assembly" if os.uname().machine == "x86_64" else "ucontext")


@functools.cache
def _runtime(how: str) -> ctypes.CDLL:
    flags = ("-O2",) + (("-DEMULATOR_UCONTEXT",) if how == "ucontext" else ())
    source = (build.HERE / "runtime.cpp").read_text()
    library = ctypes.CDLL(str(build.shared_library(source, flags, ("runtime.h", "state.h", "races.h", "memory.h"))))
    library.emulator_runtime.restype = ctypes.c_void_p
    return library


# -- modules ------------------------------------------------------------------------------------------------------------

EXPORT = 'extern "C" __attribute__((visibility("default"))) EMULATOR_UNCHECKED'
KEPT_OPTIONS = ("-D", "-U", "--define-macro=", "-std=", "--std=")  # of NVRTC's; the others say nothing to g++
DTYPES = {"b1": np.dtype(np.bool_)} | {c: np.dtype(c) for c in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")}
MAX_THREADS, MAX_BLOCK, MAX_GRID, MAX_SHARED = 1024, (1024, 1024, 64), (2**31 - 1, 65535, 65535), 227 * 1024


class EmuModule:
    """Kernels of one CUDA C++ text. `name_expressions` name instantiations of templates; extern "C" kernels are found.

    code             the text, byte for byte as it was given
    contraction      "off": fma only where the text says so. "fast": products and sums are fused wherever possible, which a
                     device's compiler does by default
    """

    def __init__(
        self,
        code: str,
        *,
        options: Sequence[str] = (),
        name_expressions: Sequence[str] | None = None,
        contraction: str = "off",
        **ignored: Any,
    ):
        reason = build.why_not()
        if reason:
            raise EmulatorError(reason)
        unknown = set(ignored) - {"backend", "translate_cucomplex", "enable_cooperative_groups", "jitify"}
        if unknown:
            raise TypeError(f"EmuModule got an unexpected argument {sorted(unknown)[0]!r}")
        self.code = code
        self.name_expressions = tuple(name_expressions or ())
        plain = re.findall(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)', code)
        self._names = tuple(dict.fromkeys([*self.name_expressions, *plain]))
        exports = [
            f"{EXPORT} void emulator_bind(emulator::Runtime* r) {{ emulator::runtime = r; }}",
            f"{EXPORT} void emulator_touch() {{ emulator::touch_shared(); }}",
        ]
        for i, name in enumerate(self._names):
            exports.append(f"{EXPORT} void emulator_run_{i}(void** p) {{ emulator::Kernel<&{name}>::run(p); }}")
            exports.append(f"{EXPORT} void emulator_signature_{i}(char* to) {{ emulator::Kernel<&{name}>::signature(to); }}")
        head = ['#include "cuda_on_cpu.h"', "namespace cuda_on_cpu {", '#line 1 "kernels.cu"']
        source = "\n".join([*head, code, '#line 1 "exports"', *exports, "}", ""])
        flags = (*build.CHECKS, "-g1") + (("-ffp-contract=fast", "-mfma", "-O2") if contraction == "fast" else ())
        kept = tuple(option for option in options if option.startswith(KEPT_OPTIONS))
        files = ("cuda_on_cpu.h", "runtime.h")
        try:
            self._path = build.shared_library(source, flags, files, "cuda_on_cpu.h", kept)
        except build.BuildError as error:
            raise EmulatorError(f"g++ does not compile this module:\n{error}") from None
        self._library = ctypes.CDLL(str(self._path))
        self._launcher = _runtime(switching())
        self._library.emulator_bind(ctypes.c_void_p(self._launcher.emulator_runtime()))

    def get_function(self, name: str) -> EmuFunction:
        if name not in self._names:
            raise EmulatorError(f'no kernel {name!r} in this module; name_expressions and extern "C" give {self._names}')
        return EmuFunction(self, name, self._names.index(name))

    def compile(self, log_stream: Any = None) -> None:
        """As cupy.RawModule's; it is compiled already."""


class EmuFunction:
    """One kernel; call it with grid, block and arguments."""

    def __init__(self, module: EmuModule, name: str, index: int):
        self.module, self.name = module, name
        self.max_dynamic_shared_size_bytes = 48 * 1024  # until the caller raises it, as on a device
        library = module._library
        self._run = getattr(library, f"emulator_run_{index}")
        text = ctypes.create_string_buffer(3 * 256)
        getattr(library, f"emulator_signature_{index}")(text)
        codes = text.value.decode()
        self.signature = tuple(codes[i : i + 3] for i in range(0, len(codes), 3))
        for k, code in enumerate(self.signature):
            if code.endswith("??"):
                raise EmulatorError(f"{name}: parameter {k} is neither a number nor a pointer to numbers")
        self.bound = self._bound()

    def _bound(self) -> int:
        """The threads of the largest block that the kernel's __launch_bounds__, if any, admits."""
        kernel = self.name.partition("<")[0].rpartition(":")[2]
        found = re.search(rf"__launch_bounds__\((.*)\)\s+{kernel}\(", self.module.code)
        if found is None:
            return MAX_THREADS
        bound = re.sub(r"sizeof\(T\)", "8" if "double" in self.name else "4", found[1].partition(",")[0])
        constants = dict(re.findall(r"constexpr int (\w+) = ([^;]+);", self.module.code))
        while name := re.search(r"[A-Za-z_]\w*", bound):
            bound = bound.replace(name[0], f"({constants[name[0]]})")
        return eval(bound.replace("/", "//"))  # numbers and operators only

    def __call__(self, grid, block, args, shared_mem: int = 0, stream: Any = None, **ignored: Any) -> None:
        schedule = _schedules.get()[-1]
        grid, block = self._shape(grid, "grid", MAX_GRID), self._shape(block, "block", MAX_BLOCK)
        if block[0] * block[1] * block[2] > self.bound:
            raise EmulatorError(f"{self.name}: a block of {block} is more than {self.bound} threads")
        if not 0 <= shared_mem <= min(MAX_SHARED, self.max_dynamic_shared_size_bytes):
            most = f"max_dynamic_shared_size_bytes is {self.max_dynamic_shared_size_bytes}, a device has {MAX_SHARED}"
            raise EmulatorError(f"{self.name}: {shared_mem} bytes of dynamic shared memory; {most}")
        if len(args) != len(self.signature):
            raise EmulatorError(f"{self.name}: takes {len(self.signature)} arguments, got {len(args)}")
        descriptions, kept = (_Argument * len(args))(), []
        for k, (value, code) in enumerate(zip(args, self.signature, strict=True)):
            descriptions[k] = self._argument(k, value, code, kept)
        launch = _Launch(
            run=ctypes.cast(self._run, ctypes.c_void_p),
            touch_shared=ctypes.cast(self.module._library.emulator_touch, ctypes.c_void_p),
            inside=ctypes.cast(self._run, ctypes.c_void_p),
            arguments=descriptions,
            n_arguments=len(args),
            grid=grid,
            block=block,
            shared_bytes=shared_mem,
            seed=schedule.seed % 2**64,
            order=Schedule.ORDERS.index(schedule.order),
            resident=schedule.resident,
            preempt=schedule.preempt,
            races=schedule.races,
            uninitialised=schedule.uninitialised,
            budget=schedule.budget,
        )
        with _lock:
            for records in _listeners:
                records.append(LaunchRecord(self.name, grid, block, shared_mem, self.module))
            failed = self.module._launcher.emulator_launch(ctypes.byref(launch))
        self.switches, self.accesses = launch.switches, launch.accesses
        if failed:
            line = launch.line.decode() or self._line(launch.where)
            message = launch.message.decode(errors="replace").replace("{other}", self._line(launch.other) or "another place")
            raise KernelError(": ".join(part for part in (self.name, line, message) if part))

    def _shape(self, value, name: str, limits: tuple[int, ...]) -> tuple[int, int, int]:
        try:
            sizes = tuple(int(v) for v in value)
        except TypeError:
            raise EmulatorError(f"{self.name}: {name} must be a tuple of integers, got {value!r}") from None
        sizes += (1,) * (3 - len(sizes))
        if len(sizes) != 3 or not all(1 <= v <= limit for v, limit in zip(sizes, limits, strict=True)):
            raise EmulatorError(f"{self.name}: {name} {tuple(value)} is outside of 1 .. {limits}")
        return sizes

    def _argument(self, k: int, value: Any, code: str, kept: list) -> _Argument:
        where = f"{self.name}: argument {k}"
        value = getattr(value, "_host", value)  # the emulated CuPy's arrays know where their numbers are
        dtype = DTYPES.get(code[1:])  # None for void
        if code[0] == "s":
            if not isinstance(value, np.generic):
                raise EmulatorError(f"{where} is {type(value).__name__}, the kernel takes a {dtype} scalar: np.{dtype}(...)")
            if value.dtype != dtype:
                raise EmulatorError(f"{where} is a {value.dtype} scalar, the kernel takes {dtype}")
            array = np.array(value)
            kept.append(array)
            return _Argument(array.ctypes.data, 0, 0, SCALAR)
        if isinstance(value, np.generic) and value.dtype.kind in "iu" and value.dtype.itemsize == 8 and value == 0:
            return _Argument(None, 0, 0, NULL)
        if not isinstance(value, np.ndarray):
            raise EmulatorError(f"{where} is {type(value).__name__}, the kernel takes an array of {dtype or 'any dtype'}")
        if dtype is not None and value.dtype != dtype and not (code[1:] == "u1" and value.dtype == np.bool_):
            raise EmulatorError(f"{where} is an array of {value.dtype}, the kernel takes a pointer to {dtype}")
        low, high = np.lib.array_utils.byte_bounds(value) if value.size else (value.ctypes.data, value.ctypes.data)
        if high - low != value.nbytes:
            shape = f"strides {value.strides} of shape {value.shape}"
            raise EmulatorError(f"{where} has gaps, {shape}; kernels see memory, not strides")
        if code[0] == "p" and not value.flags.writeable:
            raise EmulatorError(f"{where} is read-only, the kernel takes a pointer that it may write to")
        kept.append(value)
        return _Argument(low, value.nbytes, value.dtype.itemsize, WRITABLE if code[0] == "p" else READ_ONLY)

    def _line(self, instruction: int | None) -> str:
        """The line of the source that an instruction comes from, or nothing."""
        base = _load_address(self.module._path) if instruction else None
        place = build.line_of(self.module._path, instruction - 1 - base) if base is not None else None
        return f"line {place.rsplit(':', 1)[1]}" if place else ""


def _load_address(path: Path) -> int | None:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            return int(line.split("-")[0], 16)
    return None
