"""The saved states of an unfinished run: the last two, so that one damaged file loses steps and not the run."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import torch

from indattn.errors import UserError
from indattn.runs import BEFORE, FORMAT, LAST, Run, atomic, other_version

__all__ = ["load_state", "remove_states", "save_state"]


def save_state(run: Run, state: dict[str, Any]) -> None:
    """Write a state; the one that was the last becomes the one before.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    with atomic(run.path / LAST, "wb", keep=run.path / BEFORE) as file:
        file.write(buffer.getvalue())


def load_state(run: Run, restore: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
    """The last state that is whole, on the CPU, once ``restore`` has taken it up; ``None`` if there is no state.

    Raises:
        UserError: if all there are are damaged, or one is another version's.
    """
    damaged: list[str] = []
    reason: Exception | None = None
    for name in (LAST, BEFORE):
        path = run.path / name
        if not path.is_file():
            continue
        try:
            # weights_only: a file from a stranger cannot run code.
            state = torch.load(path, map_location="cpu", weights_only=True)
            version = state["format"]
            if version == FORMAT:
                restore(state)
        except Exception as error:
            damaged.append(name)
            reason = error
            continue
        if version != FORMAT:
            raise other_version(path, version)
        if name == BEFORE:
            if damaged:
                print(f"{run.path / LAST} is damaged; the state before it, of step {state['step']}, is taken up")
            # It is the last one now: the next state must not push it out in favour of a damaged one.
            os.replace(path, run.path / LAST)
        return state
    if damaged:
        files = " and ".join([str(run.path / damaged[0]), *damaged[1:]])
        raise UserError(
            f"{files} {'are' if damaged[1:] else 'is'} damaged; force=true trains the run from the start"
        ) from reason
    return None


def remove_states(run: Run) -> None:
    """Remove the states, which a finished run needs no more."""
    for name in (LAST, BEFORE):
        (run.path / name).unlink(missing_ok=True)
