"""Devices, streams and raw kernels."""

from __future__ import annotations

import itertools
import threading
import types
from pathlib import Path

import numpy as np

from emulator import module as kernels
from emulator.cupy_emulated.counting import Partial, count
from emulator.cupy_emulated.memory import MemoryPointer, poisoned


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime's."""


class Device(Partial):
    """The one device that there is."""

    _real = "cupy.cuda.Device"

    def __init__(self, device=None):
        self.id = int(device or 0)
        if self.id != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = "90"
    pci_bus_id = "0000:00:00.0"
    attributes = types.MappingProxyType(
        {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": 227 * 1024, "WarpSize": 32}
    )
    mem_info = (1 << 33, 1 << 33)

    def use(self) -> Device:
        return self

    def synchronize(self) -> None:
        count("synchronize")

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return hash(self.id)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_) -> None:
        pass

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


class _Current(threading.local):
    def __init__(self):
        self.streams: list[Stream] = []


_current = _Current()
_pointers = itertools.count(0x5000, 0x100)


class Stream(Partial):
    """Everything runs at once here; a stream knows its pointer, who is the current one, and that it was waited for."""

    _real = "cupy.cuda.Stream"
    null: Stream
    ptds: Stream

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0 if null else 2 if ptds else next(_pointers)
        self.device_id = 0

    def __enter__(self) -> Stream:
        _current.streams.append(self)
        return self

    def __exit__(self, *_) -> None:
        _current.streams.pop()

    def use(self) -> Stream:
        _current.streams[:] = [self]
        return self

    done = property(lambda self: True)

    def is_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        count("synchronize")

    def record(self, event=None) -> Event:
        return event or Event()

    def wait_event(self, event) -> None:
        pass

    def __eq__(self, other) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"


Stream.null, Stream.ptds = Stream(null=True), Stream(ptds=True)


class Event(Partial):
    _real = "cupy.cuda.Event"

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.ptr = next(_pointers)

    done = property(lambda self: True)

    def record(self, stream=None) -> None:
        pass

    def synchronize(self) -> None:
        count("synchronize")


def get_current_stream(device_id=-1) -> Stream:
    return _current.streams[-1] if _current.streams else Stream.null


def alloc(size: int) -> MemoryPointer:
    host = poisoned(size, np.uint8)
    return MemoryPointer(host, 0)


RUNTIME = {
    "CUDARuntimeError": CUDARuntimeError,
    "getDeviceCount": lambda: 1,
    "getDevice": lambda: 0,
    "getDeviceProperties": lambda device: {"name": b"emulated", "major": 9, "minor": 0, "multiProcessorCount": 4},
    "driverGetVersion": lambda: 13000,
    "runtimeGetVersion": lambda: 13000,
    "deviceSynchronize": lambda: count("synchronize"),
    "memGetInfo": lambda: Device.mem_info,
}


class RawModule(kernels.EmuModule):
    """EmuModule, with the arguments and the names of CuPy's."""

    def __init__(self, code=None, *, path=None, options=(), backend="nvrtc", name_expressions=None, **others):
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        super().__init__(code or Path(path).read_text(), options=options, name_expressions=name_expressions, **others)
        self.options, self.backend = options, backend

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(super().get_function(name))


class RawKernel(Partial):
    """What RawModule.get_function returns."""

    _real = "cupy.RawKernel"

    def __init__(self, function: kernels.EmuFunction):
        self._function, self.name = function, function.name

    def __call__(self, grid, block, args, **kwargs) -> None:
        for k, a in enumerate(args):
            if isinstance(a, np.ndarray):
                raise TypeError(f"Unsupported type {type(a)} (argument {k})")
        count("launches")
        self._function(grid, block, args, **kwargs)

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._function.max_dynamic_shared_size_bytes = size
