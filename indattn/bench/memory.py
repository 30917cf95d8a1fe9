"""Peak memory of a call beyond what is there before it: by CUDA's allocator, or of a process of its own on Linux."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["in_own_process", "is_measured", "peak_bytes"]


def is_measured(device: torch.device) -> bool:
    """Whether peaks can be measured: but for CUDA, only Linux says what a process used at most since a moment."""
    return device.type == "cuda" or Path("/proc/self/clear_refs").exists()


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most that a call holds at a time beyond what is held before it.

    On a CPU it is resident memory of the whole process, for which this should be one of :func:`in_own_process`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    Path("/proc/self/clear_refs").write_text("5")  # start a new peak
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    match = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def in_own_process(function: str, request: Any) -> Any:
    """What ``module:function`` returns for a request, in a new process of as many threads; both are JSON.

    ``None`` if that process fails, which a line on stderr says.
    """
    module, _, name = function.partition(":")
    # Large blocks go back to the system at once, so that what is resident is what is used.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    code = (
        f"import json, sys, torch; from {module} import {name}; torch.set_num_threads({torch.get_num_threads()});"
        f"json.dump({name}(json.load(sys.stdin)), sys.stdout)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(request), stdout=subprocess.PIPE, text=True, env=environment
    )
    if answer.returncode:
        tqdm.write(f"peak memory is left out: a process to measure it ended with code {answer.returncode}", sys.stderr)
        return None
    return json.loads(answer.stdout)
