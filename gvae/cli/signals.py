"""Ctrl-C and TERM while a model is trained: the step ends, and the run is saved."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Signalled(Exception):
    """Training ended early on a signal, and is saved."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


class Interruptible:
    """While entered, Ctrl-C and TERM are recorded instead of acting at once; a second Ctrl-C interrupts as usual.
    Calling it returns whether there was a signal; `number` is its number. Ignored signals, as under nohup, stay ignored."""

    number = 0

    def __enter__(self) -> Interruptible:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.number != 0

    def _note(self, number: int, _: Any) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
