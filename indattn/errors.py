"""Errors that are the user's to mend: each prints as one line and ends the command with its exit code."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

__all__ = ["Interrupted", "UserError", "nearest", "under_torchrun"]


class UserError(Exception):
    """Bad input. The message says what was wrong, where, and what would be right.

    ``exit_code`` is what the command ends with.
    """

    exit_code = 2


class Interrupted(UserError):
    """A run that was stopped by a signal after it saved its state (exit code ``128 + signal``)."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message, signal_number)
        self.message, self.signal_number, self.exit_code = message, signal_number, 128 + signal_number

    def __str__(self) -> str:
        return self.message


def nearest(word: str, known: Iterable[str], all_if_few: int = 8) -> str:
    """``"; did you mean 'x'?"``, else the known names when they are few, else nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(name) for name in close)}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= all_if_few else ""


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several that do the same."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1"
