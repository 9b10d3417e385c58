"""A run that is told to stop finishes its step, saves, and says how it goes on.

    with Stop() as stop:                          # from here on signals are heard
        ...                                       # before and after training one ends the command at once
        with stop.waiting():                      # while it trains one is noted, and the loop asks
            if stop.asked():
                save()
                raise stop.error()

Under several processes all of them must agree on the step: `asked` waits for the others.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from recipes.console import say
from w2v.training import distributed

# Ctrl-C; what launchers and `kill` send; a terminal that is gone; what Slurm sends before a time limit, where asked to.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]  # Windows has the first two


class StoppedError(KeyboardInterrupt):
    """A signal ended the command. remedy: how it goes on."""

    def __init__(self, number: int, remedy: str):
        super().__init__(signal.Signals(number).name)
        self.number, self.remedy = number, remedy


class Stop:
    """Hears signals while it is open. remedy: what the user does after one; it changes as the run goes on."""

    def __init__(self, remedy: str):
        self.remedy = remedy
        self.number: int | None = None  # of the first signal
        self.waits = False
        self._process, self._before = os.getpid(), dict[int, Any]()

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python hears none
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def waiting(self, on: bool = True) -> Iterator[None]:
        """A signal is noted here and ends nothing. on=False: a part of that which may be broken off."""
        before, self.waits = self.waits, on
        try:
            if not on and self.number is not None:
                raise self.error()
            yield
        finally:
            self.waits = before

    def asked(self) -> bool:
        """Whether any process was told to stop."""
        return distributed.any_of(self.number is not None)

    def error(self) -> StoppedError:
        return StoppedError(self.number or signal.SIGTERM, self.remedy)  # or another process heard it

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process that reads clips: it ends with the one that asked for it
            return
        name = signal.Signals(number).name
        if self.number is None:
            self.number = number
            if not self.waits:
                raise self.error()
            say(f"{name}: the run stops after this step and saves; {name} again stops it at once")
        elif number == self.number:  # a launcher sends SIGTERM after a terminal's SIGINT: that is no second wish
            say(f"{name} again: stopping at once, what was trained since the last checkpoint is lost")
            raise self.error()
