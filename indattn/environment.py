"""The machine: device, threads, and what a result must say about where it was made."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import indattn
from indattn.errors import UserError

__all__ = ["describe", "pick_device", "processors", "set_threads"]


def pick_device(name: str, process: int | None = None) -> torch.device:
    """``auto`` is CUDA when there, else the CPU.

    Args:
        name: ``auto``, or a device of torch.
        process: where several processes train one run, the number of this one on its machine: its GPU has that number.

    Raises:
        UserError: if the name is no device, or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if process is not None and name.startswith("cuda"):
        if name != "cuda":
            raise UserError(f"device={name}: each process needs a GPU of its own; use auto or cuda")
        name = f"cuda:{process}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name}: not usable here ({reason}); use auto or cpu") from error
    return device


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: Any, jobs: int = 1) -> int:
    """Set the CPU threads of this process; ``auto`` shares the cores out over parallel jobs.

    Raises:
        UserError: if it is neither ``auto`` nor a positive number.
    """
    if threads == "auto":
        cores = processors()
        threads = max(1, cores // max(1, jobs))
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UserError(f"threads={threads}: must be auto or a whole number of at least 1")
    torch.set_num_threads(threads)
    return threads


def commit() -> str | None:
    """The commit of this checkout, ``-dirty`` when files differ from it; ``None`` outside a checkout."""
    root = Path(indattn.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "indattn", "configs").strip()
        return git("rev-parse", "HEAD").strip() + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def describe(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Versions, commit and hardware; ``processes`` that computed together are named where they are several."""
    return {
        "versions": {
            "indattn": indattn.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
        "hardware": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            **({"processes": processes} if processes > 1 else {}),
        },
    }
