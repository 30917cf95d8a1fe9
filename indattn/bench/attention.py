"""What an attention costs: every family and backend against plain scaled dot-product attention.

Columns of the bias, tables and masks are built inside the timed region, gradients reach q, k, v, the centres and
f's parameters. Peak memory is what a fresh process needs beyond its inputs, outputs and gradients included.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from indattn.attention import attend
from indattn.attention.bias import bias_options, make_bias
from indattn.bench.memory import in_own_process, is_measured, peak_bytes
from indattn.config import section
from indattn.errors import UserError

__all__ = ["VARIANTS", "Case", "Sizes", "Variant", "bench_attention"]


@dataclass(frozen=True)
class Variant:
    """A family of f, the backend that computes it, and where its columns are."""

    family: str
    backend: str
    columns: str = "none"


PLAIN = Variant("none", "sdpa")
VARIANTS = (
    PLAIN,
    Variant("gaussian", "folded", "inside"),
    Variant("gaussian", "folded", "extra"),
    Variant("gaussian", "blocked"),
    Variant("gaussian", "sdpa"),
    Variant("fourier", "folded", "inside"),
    Variant("fourier", "folded", "extra"),
    Variant("fourier", "blocked"),
    Variant("fourier", "sdpa"),
    Variant("mlp", "table"),
    Variant("mlp", "sdpa"),
    Variant("mlp", "oracle"),
    Variant("mlp", "flex"),
    Variant("gaussian", "flex"),
    Variant("t5", "sdpa"),
    Variant("alibi", "sdpa"),
)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Sizes:
    """The section ``attention`` of ``configs/bench.yaml``.

    Attributes:
        lengths: queries and values, n.
        batch: items; fewer at lengths whose scores would be more than ``batch x heads x 2048^2``.
        heads, head_width: of every variant.
        hidden: units of ``mlp``.
        frequencies: of ``fourier``.
        offset_scale: tokens a unit of offset.
        families: those measured; ``none`` always is.
        backends: those measured; plain attention always is.
        precision: of queries, keys and values: ``fp32`` or ``bf16``; centres and f stay in fp32, as in training.
        memory: also measure peak memory, a process for each variant.
        largest: bytes beyond which a literal bias is not tried.
    """

    lengths: list[int] = field(default_factory=lambda: [128, 512, 2048])
    batch: int = 4
    heads: int = 8
    head_width: int = 32
    hidden: int = 64
    frequencies: int = 8
    offset_scale: float = 16.0
    families: list[str] | None = None
    backends: list[str] | None = None
    precision: str = "fp32"
    memory: bool = True
    largest: float = 2e9

    def batch_at(self, n: int) -> int:
        """Items at a length."""
        return max(1, min(self.batch, self.batch * 2048**2 // n**2))


class T5Bias(nn.Module):
    """A learned number for each of 32 distances, log-spaced from 8 to 128, as in T5: for plain positions."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(heads, 32))

    def forward(self, n: int) -> Tensor:
        """``(H, n, n)``."""
        offset = torch.arange(n, device=self.table.device)
        offset = offset - offset.unsqueeze(-1)
        far = 8 + (8 * (offset.abs().clamp_min(8) / 8).log() / math.log(16)).long().clamp_max(7)
        bucket = torch.where(offset.abs() < 8, offset.abs(), far) + 16 * (offset > 0)
        return self.table[:, bucket]


class Case:
    """One variant at one length, ready to run."""

    def __init__(self, variant: Variant, sizes: Sizes, n: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        batch, heads, width = sizes.batch_at(n), sizes.heads, sizes.head_width
        self.variant, self.n = variant, n
        learned = variant.family in ("mlp", "gaussian", "fourier")
        options = bias_options(variant.family, sizes.hidden, sizes.frequencies)
        torch.manual_seed(0)
        self.bias = make_bias(variant.family, heads, sizes.offset_scale, **options).to(device) if learned else None
        inside = self.bias.rank if self.bias is not None and variant.columns == "inside" else 0
        if inside >= width:
            raise ValueError(f"{inside} columns do not go inside a head of {width}")

        dtype = PRECISIONS[sizes.precision]

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_()

        self.q, self.k = draw(batch, heads, n, width - inside), draw(batch, heads, n, width - inside)
        self.v = draw(batch, heads, n, width)
        self.direction = torch.randn(batch, heads, n, width, generator=generator).to(device, dtype)
        moved = torch.arange(n) + sizes.offset_scale * 0.3 * torch.randn(batch, n, generator=generator)
        self.centres = moved.to(device).requires_grad_()
        self.t5 = T5Bias(heads).to(device) if variant.family == "t5" else None
        self.slopes = 2.0 ** -torch.arange(1, heads + 1, device=device) if variant.family == "alibi" else None
        self.leaves = [self.q, self.k, self.v]
        if self.bias is not None:
            self.leaves += [self.centres, *self.bias.parameters()]
        if self.t5 is not None:
            self.leaves += list(self.t5.parameters())

    def forward(self) -> Tensor:
        """The output, ``(B, H, n, width)``."""
        if self.bias is not None:
            return attend(self.q, self.k, self.v, self.bias, self.centres, backend=self.variant.backend)
        mask = None
        if self.t5 is not None:
            mask = self.t5(self.n).unsqueeze(0)
        elif self.slopes is not None:
            position = torch.arange(self.n, device=self.q.device, dtype=torch.float32)
            mask = -self.slopes[:, None, None] * (position - position.unsqueeze(-1)).abs()
        mask = None if mask is None else mask.to(self.q.dtype)
        return F.scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=mask)

    def run(self, backward: bool) -> None:
        """Outputs only, or also every gradient."""
        if backward:
            torch.autograd.grad(self.forward(), self.leaves, self.direction)
        else:
            with torch.no_grad():
                self.forward()
        if self.q.device.type == "cuda":
            torch.cuda.synchronize(self.q.device)

    def seconds(self, backward: bool) -> float:
        """Wall time of one run."""
        began = time.perf_counter()
        self.run(backward)
        return time.perf_counter() - began


def _runs_here(variant: Variant, sizes: Sizes, n: int, device: torch.device, backward: bool) -> bool:
    rank = 2 * sizes.frequencies if variant.family == "fourier" else 2
    if variant.columns == "inside" and rank >= sizes.head_width:
        return False
    units = sizes.hidden if variant.backend == "oracle" else 1
    stored = 0 if variant.backend in ("table", "blocked", "folded", "flex") or variant == PLAIN else n * n
    heads = 1 if variant.backend == "oracle" else 3 * sizes.heads  # the scores are written several times
    return 4.0 * sizes.batch_at(n) * stored * units * heads * (1 + backward) <= sizes.largest


def bench_attention(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """A row a variant, length and pass, with times and memory as ratios to plain attention.

    Raises:
        UserError: if a family, backend or precision is unknown or a size is not positive.
    """
    sizes = section(Sizes, config.attention, "attention")
    for key, word, named in (("families", "family", sizes.families), ("backends", "backend", sizes.backends)):
        known = sorted({getattr(variant, word) for variant in VARIANTS})
        for name in named or []:
            if name not in known:
                raise UserError(f"attention.{key}: no {word} {name!r}; there are {', '.join(known)}")
    if sizes.precision not in PRECISIONS:
        raise UserError(f"attention.precision={sizes.precision}: must be {' or '.join(PRECISIONS)}")
    numbers = [sizes.batch, sizes.heads, sizes.head_width, sizes.hidden, sizes.frequencies]
    if not sizes.lengths or min(sizes.lengths + numbers) < 1:
        raise UserError("attention.lengths, batch, heads, head_width, hidden, frequencies: must be at least 1")
    if not sizes.offset_scale > 0:
        raise UserError(f"attention.offset_scale={sizes.offset_scale}: must be positive")
    others = [v for v in VARIANTS if v != PLAIN and (v.backend != "flex" or device.type == "cuda")]
    others = [v for v in others if sizes.families is None or v.family in sizes.families]
    chosen = [PLAIN, *(v for v in others if sizes.backends is None or v.backend in sizes.backends)]
    rows: list[dict[str, Any]] = []
    for n in sizes.lengths:
        for backward in (False, True):
            rows += _time(chosen, sizes, n, backward, config.rounds, device)
    if sizes.memory:
        _add_memory(rows, chosen, sizes, device)
    return rows


def _time(
    variants: Sequence[Variant], sizes: Sizes, n: int, backward: bool, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    cases = [Case(v, sizes, n, device) for v in variants if _runs_here(v, sizes, n, device, backward)]
    for case in cases:
        case.run(backward)  # warm up
    times: list[list[float]] = [[] for _ in cases]
    name = _pass(backward)
    for _ in tqdm(range(rounds), desc=f"n = {n}, {name}", unit="round", disable=None):
        for case, measured in zip(cases, times, strict=True):
            measured.append(case.seconds(backward))
    rows = []
    for case, measured in zip(cases, times, strict=True):
        ratios = [a / b for a, b in zip(measured, times[0], strict=True)]
        rows.append(
            {
                "family": case.variant.family,
                "backend": case.variant.backend,
                "columns": case.variant.columns,
                "n": n,
                "pass": name,
                "batch": len(case.q),
                "milliseconds": 1000 * statistics.median(measured),
                "time_ratio": statistics.median(ratios),
                "time_ratio_low": min(ratios),
                "time_ratio_high": max(ratios),
                "memory_mib": None,
                "memory_ratio": None,
            }
        )
    return rows


def _add_memory(rows: list[dict[str, Any]], variants: Sequence[Variant], sizes: Sizes, device: torch.device) -> None:
    if not is_measured(device):
        return
    peaks: dict[tuple[str, str, str, int, str], float] = {}
    measure = _cuda_peaks if device.type == "cuda" else _process_peaks
    for variant in tqdm(variants, desc="peak memory", unit="variant", disable=None):
        measured = measure(variant, sizes, device)
        if measured is None:
            return
        for (n, name), bytes_ in measured.items():
            peaks[variant.family, variant.backend, variant.columns, n, name] = bytes_
    for row in rows:
        peak = peaks.get((row["family"], row["backend"], row["columns"], row["n"], row["pass"]))
        plain = peaks[PLAIN.family, PLAIN.backend, PLAIN.columns, row["n"], row["pass"]]
        if peak is not None:
            row["memory_mib"], row["memory_ratio"] = peak / 2**20, peak / plain


def _cuda_peaks(variant: Variant, sizes: Sizes, device: torch.device) -> dict[tuple[int, str], float]:
    peaks = {}
    for n, backward in _memory_cases(variant, sizes, device):
        case = Case(variant, sizes, n, device)
        case.run(backward)
        peaks[n, _pass(backward)] = float(peak_bytes(lambda: case.run(backward), device))  # noqa: B023
    return peaks


def _process_peaks(variant: Variant, sizes: Sizes, device: torch.device) -> dict[tuple[int, str], float] | None:
    request = {"variant": vars(variant), "sizes": vars(sizes)}
    answer = in_own_process("indattn.bench.attention:answer_peaks", request)
    return None if answer is None else {(n, name): peak for n, name, peak in answer}


def _memory_cases(variant: Variant, sizes: Sizes, device: torch.device) -> list[tuple[int, bool]]:
    cases = [(n, backward) for n in sorted(sizes.lengths) for backward in (False, True)]
    return [(n, backward) for n, backward in cases if _runs_here(variant, sizes, n, device, backward)]


def answer_peaks(request: dict[str, Any]) -> list[tuple[int, str, int]]:
    """The peaks of a variant at every length, asked for by :func:`_process_peaks` in a process of their own."""
    variant, sizes = Variant(**request["variant"]), Sizes(**request["sizes"])
    device = torch.device("cpu")
    warm_up = Sizes(**request["sizes"] | {"lengths": [8], "batch": 1})
    for backward in (False, True):
        Case(variant, warm_up, 160, device).run(backward)
    answers = []
    for n, backward in _memory_cases(variant, sizes, device):
        case = Case(variant, sizes, n, device)
        answers.append((n, _pass(backward), peak_bytes(lambda: case.run(backward), device)))  # noqa: B023
    return answers


def _pass(backward: bool) -> str:
    return "forward+backward" if backward else "forward"
