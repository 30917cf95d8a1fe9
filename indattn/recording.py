"""What a run keeps of its model's inside, so that figures need no weights."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from indattn.misalignment import Batch
from indattn.runs import Run, atomic

__all__ = ["of_heads", "record", "save_recording", "shares"]

EXAMPLES = 4

#: What a run's result says of its heads (:func:`shares`).
SHARES = ("position_share", "data_share")


def record(model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
    """Bias, centres, sharpness and attention maps of every layer over a batch.

    ``L`` layers, ``H`` heads, ``m`` queries, ``n`` values; fields of layers with a bias are there only when the
    model has one.

    Returns:
        - ``sharpness (L, H)``: mean of ``sum_j a_ij^2`` over queries and examples (1 is one-hot, 1/n uniform);
        - ``attention (L, E, H, m, n)``: weights of the first ``E`` examples, float16;
        - ``context``, ``content``, ``targets``: the tokens of those examples;
        - ``offsets (m + n - 1,)``: whole offsets ``j - i``;
        - ``bias_function (L, H, m + n - 1)``: f at those offsets from the centre;
        - ``bias_mean``, ``bias_std (L, H, m + n - 1)``: the bias that was added at each ``j - i``, over examples
          and queries: where centres moved it depends on the data, and the spread says how much;
        - ``centres (L, E, m)``: centres that entered each layer, of the first examples;
        - ``centre_std (L,)``: standard deviation of ``c_i - i`` over queries and examples, in tokens;
        - ``position_share``, ``data_share (L, H)``: what heads go by (:func:`shares`).
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        _, output = model(batch, record=True)
        weights = torch.stack(output.weights).float()  # (L, B, H, m, n)
        m, n = weights.shape[-2:]
        recorded: dict[str, Any] = {
            "sharpness": weights.square().sum(-1).mean((1, 3)),
            "attention": weights[:, :EXAMPLES].half(),
            **{key: batch[key][:EXAMPLES] for key in ("context", "content", "targets")},
            "offsets": torch.arange(1 - m, n),
        }
        if output.biases[0] is not None:
            recorded |= _record_bias(model, output.biases, output.centres, len(batch["targets"]), m, n)
            of_layers = [shares(*layer) for layer in zip(output.weights, output.biases, strict=True)]
            recorded |= {name: torch.stack([layer[i] for layer in of_layers]) for i, name in enumerate(SHARES)}
    model.train(was_training)
    return {key: np.asarray(value.cpu()) for key, value in recorded.items()}


def shares(weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each head's scores is position bias, and how much of the bias depends on the data.

    A score is ``q . k / sqrt(d_h) + f_h(j - c_i)``; both parts vary over the values j that a query chooses among, and a
    constant does not change a softmax. The *position share* is the variance over j of the bias by the sum of both
    variances, means over queries and examples: 1 of a head that goes by position alone, 0 of one that goes by content
    alone. The *data share* is the part of the bias's variance that differs between examples at the same query and
    value: 0 where the bias is a function of ``j - i`` alone.

    Args:
        weights: ``(B, H, m, n)``, all positive.
        bias: broadcastable to them.

    Returns:
        two ``(H,)`` in [0, 1].
    """
    weights, bias = weights.double(), bias.double().expand(weights.shape)
    content = weights.clamp(min=torch.finfo(torch.float32).tiny).log() - bias
    content, bias = (part - part.mean(-1, keepdim=True) for part in (content, bias))
    of_content, of_bias = (part.square().mean((0, 2, 3)) for part in (content, bias))
    of_data = (bias - bias.mean(0)).square().mean((0, 2, 3))
    nothing = torch.finfo(torch.float32).eps  # rounding
    return of_bias / (of_bias + of_content).clamp(min=nothing), of_data / of_bias.clamp(min=nothing)


def of_heads(recorded: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a result says of heads: ``{"heads": {"position_share": (L, H) as lists, ...}}``; nothing without a bias."""
    told = {name: recorded[name].astype(float).round(6).tolist() for name in SHARES if name in recorded}
    return {"heads": told} if told else {}


def _record_bias(
    model: Any, biases: list[Tensor], centres: list[Tensor | None], batch: int, m: int, n: int
) -> dict[str, Tensor]:
    device = biases[0].device
    grid = torch.arange(1 - m, n, device=device, dtype=torch.float32)
    diagonal = (torch.arange(n, device=device) - torch.arange(m, device=device).unsqueeze(1) + m - 1).flatten()
    means, deviations, functions, moved = [], [], [], []
    positions = torch.arange(m, device=device, dtype=torch.float32)
    for layer, bias, centre in zip(model.decoder.layers, biases, centres, strict=True):
        flat = bias.double().flatten(2).permute(1, 0, 2)  # (H, B or 1, m * n)
        index = diagonal.expand(flat.shape[1], -1).flatten()
        flat = flat.flatten(1)
        count = torch.bincount(index, minlength=m + n - 1)
        mean = torch.zeros(len(flat), m + n - 1, dtype=flat.dtype, device=device).index_add_(1, index, flat) / count
        residual = (flat - mean[:, index]).square()
        variance = torch.zeros_like(mean).index_add_(1, index, residual) / count
        means.append(mean.float())
        deviations.append(variance.sqrt().float())
        functions.append(layer.attention.bias(grid).transpose(0, 1).float())
        moved.append(positions.expand(batch, -1) if centre is None else centre.float())
    stacked = torch.stack(moved)
    return {
        "bias_function": torch.stack(functions),
        "bias_mean": torch.stack(means),
        "bias_std": torch.stack(deviations),
        "centres": stacked[:, :EXAMPLES],
        "centre_std": (stacked - positions).std(dim=(1, 2)),
    }


def save_recording(run: Run, name: str, recorded: dict[str, np.ndarray]) -> None:
    """Write a recording as ``<name>.npz`` in the run's folder."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **recorded)
    with atomic(run.path / f"{name}.npz", "wb") as file:
        file.write(buffer.getvalue())
