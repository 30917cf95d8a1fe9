"""Which code computes an indirect attention. All give the same result; :func:`attend` picks or obeys.

| backend | how | for |
|---|---|---|
| ``oracle`` | the definition, f at every pair by its own ``forward`` | tests; twice differentiable |
| ``sdpa`` | the bias as the fused kernel's float mask | every f and option; stores the bias |
| ``table`` | the exact piecewise-linear table, in blocks of queries | ``mlp``; memory linear in the length |
| ``blocked`` | any f in blocks of queries, computed again in the backward | every f; memory linear in the length |
| ``folded`` | the bias in columns of q and k | ``gaussian`` (asked for, it rounds as it may), ``fourier``, boxes |
| ``flex`` | torch's FlexAttention | ``mlp`` and ``gaussian`` on CUDA; gradients not deterministic |

``auto``: ``table`` for ``mlp``. For the rest, ``folded`` from :data:`FEWEST_FOLDED` scores a head on, where the
rounding of its columns changes no score by more than :data:`FOLD_TOLERANCE`; else ``blocked`` from
:data:`FEWEST_BLOCKED` on.
``sdpa`` for what is shorter, or what those cannot do: dropout, a mask with a gradient, ``blocked`` while compiling.
The bound on the rounding of columns is for centres within the content; it does not look where they are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from indattn.attention.bias import GaussianBias, MLPBias, PositionBias
from indattn.attention.blocks import blocked_attention
from indattn.attention.flex import flex_indirect_attention
from indattn.attention.folded import folded_attention
from indattn.attention.functional import fused_indirect_attention, indirect_attention
from indattn.attention.pieces import Pieces
from indattn.attention.table import reads_pieces, short_table_attention, table_attention

__all__ = ["BACKENDS", "FOLD_TOLERANCE", "attend", "why_not"]

BACKENDS = ("auto", "oracle", "sdpa", "table", "blocked", "folded", "flex")
#: Largest rounding error of a score that ``auto`` lets columns make.
FOLD_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
#: Scores of one head (queries x values) from which columns cost less than storing the bias.
FEWEST_FOLDED = 48 * 48
#: The same for blocks, which save memory more than time.
FEWEST_BLOCKED = 128 * 128


def why_not(
    backend: str, bias: PositionBias | None, device: torch.device, mask: Tensor | None, dropout_p: float
) -> str | None:
    """Why a backend cannot run here; ``None`` if it can."""
    if bias is None:
        return None if backend in ("oracle", "sdpa") else "there is no bias"
    if backend == "folded" and not bias.rank:
        return f"{type(bias).__name__} is not separable"
    if backend == "table" and not isinstance(bias, MLPBias):
        return f"{type(bias).__name__} is not piecewise linear"
    if backend == "flex":
        if not isinstance(bias, (MLPBias, GaussianBias)):
            return f"{type(bias).__name__} has no form for FlexAttention"
        if device.type != "cuda" and torch.is_grad_enabled():
            return f"FlexAttention has no gradients on {device.type}"
    if backend == "blocked" and torch.compiler.is_compiling():
        return "torch.compile cannot see into it"
    if backend == "table" and device.type == "mps":
        return "it needs float64"
    if backend == "table" and device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return "its sums have no fixed order on CUDA"
    if backend in ("table", "blocked", "flex"):
        if dropout_p > 0:
            return "it drops no attention weights"
        if mask is not None and mask.requires_grad and torch.is_grad_enabled():
            return "it gives no gradient to the mask"
    return None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: PositionBias | None = None,
    centres: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    backend: str = "auto",
    pieces: Pieces | None = None,
) -> Tensor:
    """Indirect attention with a bias module (section 5, definition 1), by the backend asked for.

    Args:
        q: ``(B, H, m, d_h)`` queries.
        k: ``(B, H, n, d_h)`` keys, from the context.
        v: ``(B, H, n, d_v)`` values, from the content.
        bias: f; ``None`` is ordinary attention.
        centres: ``(B, m)`` in tokens, or ``(B, m, 4)`` boxes; ``None`` means plain positions.
        attn_mask: added to the scores, broadcastable to ``(B, H, m, n)``. A row all ``-inf`` gives zeros.
        dropout_p: probability that a weight is dropped.
        scale: factor on ``q . k``; ``1 / sqrt(d_h)`` when ``None``.
        backend: one of :data:`BACKENDS`.
        pieces: those of ``bias`` (``mlp``), if they are made already (:func:`indattn.attention.layers.prepare`).

    Returns:
        ``(B, H, m, d_v)``.

    Raises:
        ValueError: if the backend is unknown or cannot run, saying why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if attn_mask is not None and not attn_mask.is_floating_point():
        raise ValueError(f"attn_mask must be of a floating type, as it is added to the scores; got {attn_mask.dtype}")
    if centres is not None:
        centres = centres.to(torch.promote_types(centres.dtype, torch.float32))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "auto":
        backend = _choose(q, v, bias, attn_mask, dropout_p)
    else:
        reason = why_not(backend, bias, q.device, attn_mask, dropout_p)
        if reason is not None:
            raise ValueError(f"backend={backend!r} cannot run: {reason}")
    queries, values = q.shape[2], v.shape[2]
    if backend != "folded" and q.shape[-1] < v.shape[-1]:  # the fused kernels are fast at equal widths only
        q, k = (F.pad(x, (0, v.shape[-1] - q.shape[-1])) for x in (q, k))
    if bias is None or backend in ("oracle", "sdpa"):
        made = None
        if bias is not None and backend == "oracle":
            made = bias.by_definition(_plain(bias, q) if centres is None else centres, values)
        elif bias is not None:
            made = bias.at_positions(queries, values)[None] if centres is None else bias.at_centres(centres, values)
        made = None if made is None else made.to(q.device)
        if backend == "oracle":
            return indirect_attention(q, k, v, made, attn_mask, dropout_p, scale)[0]
        if made is not None and made.dtype != q.dtype:
            # Fused kernels want it in q's type. Softmax sees no constant: without it what matters is rounded least.
            made = (made - made.detach().amax(-1, keepdim=True)).to(q.dtype)
        return fused_indirect_attention(q, k, v, made, attn_mask, dropout_p, scale)

    forbidden = None
    if attn_mask is not None:
        forbidden = (attn_mask == -torch.inf).all(dim=-1, keepdim=True)
        attn_mask = attn_mask.masked_fill(forbidden, 0.0)
        attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
    centres = _plain(bias, q) if centres is None else centres
    if backend == "folded":
        u, w = bias.columns(centres, values)
        output = folded_attention(q, k, v, u, w, attn_mask, dropout_p, scale)
    elif backend == "table":
        assert isinstance(bias, MLPBias)
        if reads_pieces(values):
            output = short_table_attention(q, k, v, centres, pieces or bias.pieces(), attn_mask, scale)
        else:
            output = table_attention(q, k, v, centres, *bias.parameters_per_token(), attn_mask, scale)
    elif backend == "blocked":
        output = blocked_attention(q, k, v, centres, bias, attn_mask, scale)
    else:
        output = flex_indirect_attention(q, k, v, centres, bias, attn_mask, scale)
    return output if forbidden is None else output.masked_fill(forbidden, 0.0)


def _choose(q: Tensor, v: Tensor, bias: PositionBias | None, mask: Tensor | None, dropout_p: float) -> str:
    """The rule of ``auto``."""
    if bias is None:
        return "sdpa"
    if isinstance(bias, MLPBias):
        return "sdpa" if why_not("table", bias, q.device, mask, dropout_p) else "table"
    if torch.compiler.is_compiling():  # a graph depends neither on lengths nor on learned numbers
        return "folded" if bias.folds_anywhere else "sdpa"
    scores = q.shape[2] * v.shape[2]
    if scores >= FEWEST_FOLDED and _folds(bias, v.shape[2], q.dtype):
        return "folded"
    if scores < FEWEST_BLOCKED:
        return "sdpa"
    return "sdpa" if why_not("blocked", bias, q.device, mask, dropout_p) else "blocked"


def _folds(bias: PositionBias, num_values: int, dtype: torch.dtype) -> bool:
    if bias.folds_anywhere or not bias.rank or any(p.is_meta for p in bias.parameters()):
        return bias.folds_anywhere
    # The bound is read off learned numbers: once for each of their versions, as a GPU has to be waited for.
    key = (num_values, dtype, tuple((id(p), p._version) for p in bias.parameters()))
    known: dict[Any, bool] = bias.__dict__.setdefault("_folds", {})
    if key not in known:
        known.clear()
        known[key] = bias.fold_error(num_values, dtype) <= FOLD_TOLERANCE.get(dtype, 0.0)
    return known[key]


def _plain(bias: PositionBias, q: Tensor) -> Tensor:
    return bias.plain_centres(q.shape[2]).to(q.device)
