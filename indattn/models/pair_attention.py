"""Indirect attention over all pairs of texts and pictures at once.

Shapes: ``T`` texts, ``I`` pictures, ``m`` queries, ``n`` cells of a picture's grid, ``H`` heads. Tensors of pairs are
``(T, I, ...)``, with 1 in place of ``T`` or ``I`` where nothing depends on it: a product over all pairs is then one
matrix product a head or a picture, and no projection is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from indattn.attention import BoxBias, IndirectAttention

__all__ = ["PairAttention", "pair_product", "softmax_over_pairs"]


class PairAttention(IndirectAttention):
    """:class:`IndirectAttention` over all pairs of texts and pictures; the same parameters, the same numbers."""

    uniform = False

    def pairs(
        self, query: Tensor, keys: Tensor, values: Tensor, centres: Tensor | None, record: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Outputs ``(T, I, m, w)``, centres for the next layer ``(T, I, m, 4)``, with ``record`` the weights.

        Args:
            query: ``(T | 1, I | 1, m, w)``.
            keys, values: features ``(T | 1, I | 1, n, w)`` of the context and the content.
            centres: boxes ``(T | 1, I | 1, m, 4)`` in cells.
            record: also return weights ``(T, I, H, m, n)``.
        """
        num_values = values.shape[2]
        if self.uniform:
            weights = values.new_full((1, 1, self.num_heads, query.shape[2], num_values), 1 / num_values)
        else:
            q, k = self._split(self.q_proj(query)), self._split(self.k_proj(keys))
            scores = pair_product(q, (k / math.sqrt(q.shape[-1])).transpose(-2, -1))
            if isinstance(self.bias, BoxBias) and centres is not None:
                across, down = self.bias.axes(centres.flatten(0, 1), num_values)
                cells = scores.unflatten(-1, self.bias.grid)
                for f in (across.unsqueeze(-2), down.unsqueeze(-1)):
                    cells = cells.add_(f.unflatten(0, centres.shape[:2]))
                scores = cells.flatten(-2)
            weights = softmax_over_pairs(scores)
        read = pair_product(F.dropout(weights, self.dropout, self.training), self._split(self.v_proj(values)))
        output = self.out_proj(read.movedim(-3, -2).flatten(-2))
        if self.centre_update is not None and centres is not None:
            centres = self.centre_update(centres, output)
            centres = centres.detach() if self.detach_centres else centres
        return output, centres, weights if record else None

    def _split(self, x: Tensor) -> Tensor:
        """``(., ., length, w)`` to ``(., ., H, length, d_h)``."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


def pair_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` for all pairs: ``(T | 1, I | 1, H, r, s) x (T | 1, I | 1, H, s, c)`` to ``(T, I, H, r, c)``.

    Where a factor does not depend on the text (or on the picture), the other's are rows of one larger product instead
    of a product each.
    """
    texts, images = (max(x, y) for x, y in zip(a.shape[:2], b.shape[:2], strict=True))
    if a.shape[:2] == b.shape[:2] or (texts, images) == (1, 1):
        return a @ b
    rows, columns = a.shape[-2], b.shape[-1]
    for own, other in ((1, 0), (0, 1)):  # b is the picture's, or the text's
        if b.shape[other] == 1 and b.shape[own] == a.shape[own]:
            # Rows in the order in which they lie in memory: where that can be, nothing is copied.
            outer, inner = sorted((other, 3), key=a.stride, reverse=True)
            order = (2, own, outer, inner, 4)
            folded = a.permute(order).flatten(2, 3) @ b.squeeze(other).transpose(0, 1)
            return _back(folded.unflatten(2, (a.shape[outer], a.shape[inner])), order)
    if a.shape[0] == 1 and b.shape[1] == 1:  # a is the picture's, b the text's
        left = a[0].transpose(0, 1).flatten(1, 2)  # (H, I r, s)
        right = b[:, 0].permute(1, 2, 0, 3).flatten(2, 3)  # (H, s, T c)
        return (left @ right).unflatten(2, (texts, columns)).unflatten(1, (images, rows)).permute(3, 1, 0, 2, 4)
    if a.shape[1] == 1 and b.shape[0] == 1:  # the other way round
        left = a[:, 0].transpose(0, 1).flatten(1, 2)  # (H, T r, s)
        right = b[0].permute(1, 2, 0, 3).flatten(2, 3)  # (H, s, I c)
        return (left @ right).unflatten(2, (images, columns)).unflatten(1, (texts, rows)).permute(1, 3, 0, 2, 4)
    return a @ b


def _back(x: Tensor, order: Sequence[int]) -> Tensor:
    """What was permuted into an order, permuted back."""
    return x.permute(*(order.index(dim) for dim in range(x.dim())))


def softmax_over_pairs(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, in the order in which the others lie in memory: nothing is copied before it."""
    order = (*sorted(range(scores.dim() - 1), key=scores.stride, reverse=True), scores.dim() - 1)
    return _back(scores.permute(order).softmax(-1), order)
