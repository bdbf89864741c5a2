"""Devices, streams and raw kernels."""

from __future__ import annotations

import itertools
import types
from pathlib import Path

import numpy as np

from emulator import module as kernels
from emulator.cupy_emulated.counting import RELAXED, Capture, CUDARuntimeError, Partial, capturing, count, current
from emulator.cupy_emulated.memory import detached


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


_pointers = itertools.count(0x5000, 0x100)


class Stream(Partial):
    """Everything runs at once here, or is kept while the stream captures; a stream knows its pointer, who is the current
    one, and that it was waited for."""

    _real = "cupy.cuda.Stream"
    null: Stream
    ptds: Stream

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0 if null else 2 if ptds else next(_pointers)
        self.device_id, self.is_non_blocking = 0, non_blocking
        self._capture: Capture | None = None

    def __enter__(self) -> Stream:
        current.streams.append(self)
        return self

    def __exit__(self, *_) -> None:
        current.streams.pop()

    def use(self) -> Stream:
        current.streams[:] = [self]
        return self

    @property
    def done(self) -> bool:
        if self._capture is not None:
            self._capture.broken = True  # no error yet, as on a device
        return True

    def begin_capture(self, mode=None) -> None:
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._capture is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state")
        self._capture = Capture(RELAXED if mode is None else mode)

    def end_capture(self) -> Graph:
        capture, self._capture = self._capture, None
        if capture is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state")
        if capture.broken:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture"
            )
        graph = object.__new__(Graph)
        graph._operations = capture.operations
        return graph

    def is_capturing(self) -> bool:
        return self._capture is not None

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


class Graph(Partial):
    """A list of operations on addresses: what lies there when it is launched is what it takes."""

    _real = "cupy.cuda.Graph"
    _operations: list

    def __init__(self, *args, **kwargs):
        raise NotImplementedError(
            "currently this class cannot be initiated by the user and must be created via stream capture"
        )

    def launch(self, stream=None) -> None:
        count("graphs")
        for operation in self._operations:
            operation()

    def upload(self, stream=None) -> None:
        pass


def get_current_stream(device_id=-1) -> Stream:
    return current.streams[-1] if current.streams else Stream.null


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
        capture = capturing()
        if capture is None:
            self._function(grid, block, args, **kwargs)
        else:
            places = [detached(getattr(a, "_host", a)) for a in args]
            capture.add(lambda: self._function(grid, block, places, **kwargs))

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._function.max_dynamic_shared_size_bytes = size
