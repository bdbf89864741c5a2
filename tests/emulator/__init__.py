"""CUDA without a GPU: kernels run on a CPU (module.py) and compiled for devices (nvrtc.py); see tests/README.md."""

from emulator.module import EmuFunction, EmulatorError, EmuModule, KernelError, LaunchRecord, Schedule, recorded

__all__ = ["EmuFunction", "EmuModule", "EmulatorError", "KernelError", "LaunchRecord", "Schedule", "recorded"]
