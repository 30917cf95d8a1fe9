"""Signals that stop a training: Ctrl-C, SIGTERM, and pre-emption of a submitit job, which goes back to its queue."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from indattn.errors import Interrupted, UserError

__all__ = ["catching_signals", "preemption_signal", "requeue"]


class Stoppable(Protocol):
    """What a signal stops after its step."""

    stop_signal: int | None


def preemption_signal() -> int | None:
    """The signal by which submitit learns that this job will be taken down; ``None`` outside of its jobs."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    name = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    number = getattr(signal, name, None)
    # A child of a job inherits its environment, not its handlers.
    return number if number is not None and callable(signal.getsignal(number)) else None


class catching_signals:
    """While training, SIGINT and SIGTERM ask for a stop after the step; a second one ends it at once.

    So does submitit's signal, where there is one.
    """

    def __init__(self, trainer: Stoppable) -> None:
        self.trainer = trainer
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            preemption = preemption_signal()
            for number in (signal.SIGINT, signal.SIGTERM, *([] if preemption is None else [preemption])):
                self.previous[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        self.trainer.stop_signal = number
        signal.signal(number, self.previous[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def requeue(stop: Interrupted) -> None:
    """Put the submitit job in which this process runs back in its queue, and exit; elsewhere do nothing.

    A run is stopped by SIGTERM when SLURM takes its node away, by submitit's signal when its time is nearly over.
    SIGINT is a person's wish, and no job comes back after it.

    Raises:
        UserError: if submitit does not requeue it: it was out of time too often, or SLURM refuses.
    """
    number = preemption_signal()
    if number is None or stop.signal_number not in (number, signal.SIGTERM):
        return
    print(f"indattn: {stop.message}; back to the queue", file=sys.stderr, flush=True)
    handler: Callable[[int, Any], None] = signal.getsignal(number)  # type: ignore[assignment]
    try:
        handler(number, None)  # submitit's own: pickles the job anew, asks for its return, exits
    except Exception as error:
        raise UserError(f"{stop.message}; submitit did not put it back in the queue: {error}") from error
