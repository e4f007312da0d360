"""Signals that ask training to end (Ctrl-C; SIGTERM of Slurm and of most clusters): end it where it can go on later."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from ..checkpoint.writing import SafeCheckpointer

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """Ends the process with status 128 + the number of the signal: 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Interruption:
    """Remembers the first signal of :data:`SIGNALS`.

    A second Ctrl-C ends the process at once. A second SIGTERM does not: many clusters, and torchrun besides, send one
    each for the same reason.
    """

    def __init__(self) -> None:
        self.number = 0
        self._at_once = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Within, signals are remembered, if this is the main thread: no other can handle any."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises :class:`Interrupted` on the spot: for long work of which nothing is worth keeping."""
        self._at_once = True
        try:
            if self.number:
                raise Interrupted(self.number)
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if number == self.number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.number = number
        logger.warning(
            "%s: ending after this iteration, with a checkpoint that --resume goes on from%s.",
            signal.Signals(number).name,
            " (once more: at once)" if number == signal.SIGINT else "",
        )
        if self._at_once:
            raise Interrupted(number)

    def of_all_processes(self) -> int:
        """Return the signal that any process got, 0 for none; all processes call it."""
        if comm.get_world_size() == 1:
            return self.number
        return max(comm.all_gather(self.number))


class InterruptionHook(HookBase):
    """Ends training after the iteration in which a signal came, with a checkpoint of it.

    Stands after the hooks that change what a checkpoint holds, and before evaluation.
    """

    def __init__(self, interruption: Interruption, checkpointer: SafeCheckpointer) -> None:
        self._interruption = interruption
        self._checkpointer = checkpointer

    def after_step(self) -> None:
        iteration = self.trainer.iter
        number = self._interruption.of_all_processes()
        if number and iteration + 1 < self.trainer.max_iter:
            save_iteration(self._checkpointer, iteration)
            # Launchers kill all processes some seconds after the first has ended, the one that still writes among them.
            comm.synchronize()
            raise Interrupted(number)


def save_iteration(checkpointer: SafeCheckpointer, iteration: int) -> None:
    """Write the checkpoint of an iteration that is complete, unless this run has; named as Detectron2 names them."""
    name = f"model_{iteration:07d}"
    if checkpointer.last_saved != name:
        checkpointer.save(name, iteration=iteration)
