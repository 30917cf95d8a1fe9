"""What a run keeps of its model's inside, so that figures need no weights."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from indattn.misalignment import Batch
from indattn.runs import Run, atomic

__all__ = ["record", "save_recording"]

EXAMPLES = 4


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
        - ``centre_std (L,)``: standard deviation of ``c_i - i`` over queries and examples, in tokens.
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
    model.train(was_training)
    return {key: np.asarray(value.cpu()) for key, value in recorded.items()}


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
