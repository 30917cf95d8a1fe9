"""Where prepared corpora and features lie, outside any project: they cost minutes to make and nothing to delete."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """The folder ``$INDATTN_CACHE``, or the one the system keeps for caches (``~/.cache/indattn`` on Linux)."""
    own = os.environ.get("INDATTN_CACHE")
    return Path(own).expanduser() if own else Path(platformdirs.user_cache_dir("indattn", appauthor=False))
