import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.attention import fused_indirect_attention, indirect_attention, offsets
from indattn.attention.functional import attention_weights, merge_masks

BATCH, HEADS, QUERIES, VALUES, WIDTH = 2, 3, 4, 5, 6
BIASES = {
    "none": None,
    "values": (1, 1, 1, VALUES),
    "plane": (QUERIES, VALUES),
    "head": (1, HEADS, QUERIES, VALUES),
    "full": (BATCH, HEADS, QUERIES, VALUES),
}
MASKS = {
    "none": None,
    "plane": (QUERIES, VALUES),
    "padding": (BATCH, 1, 1, VALUES),
    "batch": (BATCH, 1, QUERIES, VALUES),
    "full": (BATCH, HEADS, QUERIES, VALUES),
}


def inputs(seed=0, batch=BATCH, heads=HEADS, m=QUERIES, n=VALUES, width=WIDTH, v_width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(batch, heads, m, width), draw(batch, heads, n, width), draw(batch, heads, n, v_width)


def random_mask(shape, seed=1):
    if shape is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randn(shape, generator=generator, dtype=torch.float64)
    return mask.masked_fill(torch.rand(shape, generator=generator) < 0.4, -torch.inf)


def random_bias(shape, seed=2):
    return None if shape is None else torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def by_hand(q, k, v, f, centres):
    batch, heads, m, width = q.shape
    n, v_width = v.shape[-2:]
    outputs, weights = torch.zeros(batch, heads, m, v_width), torch.zeros(batch, heads, m, n)
    for b in range(batch):
        for h in range(heads):
            for i in range(m):
                scores = []
                for j in range(n):
                    product = sum(float(q[b, h, i, d]) * float(k[b, h, j, d]) for d in range(width))
                    scores.append(product / math.sqrt(width) + f(h, j - centres[b][i]))
                total = sum(math.exp(s) for s in scores)
                for j in range(n):
                    weights[b, h, i, j] = math.exp(scores[j]) / total
                for d in range(v_width):
                    outputs[b, h, i, d] = sum(float(weights[b, h, i, j]) * float(v[b, h, j, d]) for j in range(n))
    return outputs, weights


def test_oracle_is_the_definition():
    q, k, v = inputs(batch=2, heads=2, m=2, n=3, width=2, v_width=3)
    centres = [[0.0, 1.0], [0.7, -1.5]]

    def f(head, offset):
        return math.sin(offset) * (head + 1) - 0.3 * abs(offset)

    offset = offsets(torch.tensor(centres, dtype=torch.float64), 3)
    bias = torch.stack([offset.sin() * (h + 1) - 0.3 * offset.abs() for h in range(2)], dim=1)
    output, weights = indirect_attention(q, k, v, bias)
    expected_output, expected_weights = by_hand(q, k, v, f, centres)
    torch.testing.assert_close(weights.float(), expected_weights)
    torch.testing.assert_close(output.float(), expected_output)


def test_offsets():
    centres = torch.tensor([[0.0, 1.0], [2.5, -1.0]])
    expected = torch.tensor([[[0.0, 1, 2], [-1, 0, 1]], [[-2.5, -1.5, -0.5], [1, 2, 3]]])
    assert torch.equal(offsets(centres, 3), expected)
    assert torch.equal(offsets(centres[0], 3), expected[0])


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", BIASES)
def test_fused_equals_oracle(bias, mask):
    q, k, v = (x.requires_grad_() for x in inputs())
    f, hidden = random_bias(BIASES[bias]), random_mask(MASKS[mask])
    leaves = [q, k, v] + ([] if f is None else [f.requires_grad_()])
    literal, _ = indirect_attention(q, k, v, f, hidden)
    fused = fused_indirect_attention(q, k, v, f, hidden)
    torch.testing.assert_close(fused, literal)
    direction = torch.randn_like(literal)
    for one, other in zip(
        torch.autograd.grad(fused, leaves, direction), torch.autograd.grad(literal, leaves, direction), strict=True
    ):
        torch.testing.assert_close(one, other)


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    m=st.integers(1, 5),
    n=st.integers(1, 5),
    width=st.integers(1, 4),
    v_width=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_fused_equals_oracle_in_any_shape(batch, heads, m, n, width, v_width, seed):
    q, k, v = inputs(seed, batch, heads, m, n, width, v_width)
    bias, mask = random_bias((batch, heads, m, n), seed), random_mask((batch, 1, m, n), seed)
    output, weights = indirect_attention(q, k, v, bias, mask)
    assert output.shape == (batch, heads, m, v_width)
    assert weights.shape == (batch, heads, m, n)
    torch.testing.assert_close(fused_indirect_attention(q, k, v, bias, mask), output)


@pytest.mark.parametrize("mask", MASKS)
def test_weights_sum_to_one_or_are_zero(mask):
    q, k, _ = inputs()
    hidden = random_mask(MASKS[mask], seed=5)
    weights = attention_weights(q, k, random_bias(BIASES["full"]), hidden)
    assert (weights >= 0).all()
    if hidden is None:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        return
    forbidden = (hidden == -torch.inf).expand_as(weights)
    assert (weights[forbidden] == 0).all()
    torch.testing.assert_close(weights.sum(-1), (~forbidden.all(-1)).double())


@pytest.mark.parametrize("bias", ["none", "head"])
@pytest.mark.parametrize("shape", [(QUERIES, VALUES), (BATCH, 1, QUERIES, VALUES), (BATCH, HEADS, QUERIES, VALUES)])
def test_rows_without_keys_give_zeros(bias, shape):
    q, k, v = (x.requires_grad_() for x in inputs())
    f = random_bias(BIASES[bias])
    leaves = [q, k, v] + ([] if f is None else [f.requires_grad_()])
    mask = torch.zeros(shape, dtype=torch.float64)
    mask[..., 1, :] = -torch.inf
    mask[..., 2, 0] = -torch.inf
    literal, weights = indirect_attention(q, k, v, f, mask)
    assert (weights[:, :, 1] == 0).all()
    for output in (literal, fused_indirect_attention(q, k, v, f, mask)):
        assert (output[:, :, 1] == 0).all()
        assert (output[:, :, 0] != 0).all()
        assert output.isfinite().all()
        gradients = torch.autograd.grad(output.square().sum(), leaves)
        assert all(g.isfinite().all() for g in gradients)
        assert (gradients[0][:, :, 1] == 0).all()
        assert gradients[0][:, :, 0].abs().sum() > 0


def test_all_keys_of_an_item_hidden():
    q, k, v = inputs()
    mask = torch.zeros(BATCH, 1, 1, VALUES, dtype=torch.float64)
    mask[1] = -torch.inf
    for output in (indirect_attention(q, k, v, None, mask)[0], fused_indirect_attention(q, k, v, None, mask)):
        assert (output[1] == 0).all()
        torch.testing.assert_close(output[0], indirect_attention(q, k, v)[0][0])


def test_gradcheck_of_the_oracle():
    q, k, v = (x.requires_grad_() for x in inputs(batch=1, heads=2, m=2, n=3, width=2))
    bias = random_bias((1, 2, 2, 3)).requires_grad_()
    mask = torch.zeros(2, 3, dtype=torch.float64)
    mask[0, 1] = -torch.inf
    assert torch.autograd.gradcheck(lambda *x: indirect_attention(*x), (q, k, v, bias))
    assert torch.autograd.gradcheck(lambda *x: indirect_attention(*x, mask), (q, k, v, bias))


def test_dropout_drops_weights():
    torch.manual_seed(0)
    q, k, v = inputs(m=200, n=50)
    plain, weights = indirect_attention(q, k, v)
    dropped, kept_weights = indirect_attention(q, k, v, dropout_p=0.5)
    assert torch.equal(weights, kept_weights)
    assert not torch.allclose(plain, dropped)
    torch.testing.assert_close(dropped.mean(), plain.mean(), atol=0.02, rtol=0)
    assert not torch.allclose(fused_indirect_attention(q, k, v, dropout_p=0.5), plain)


def test_merged_masks():
    padding = torch.tensor([[False, False, True], [False, True, False]])
    pairs = torch.tensor([[True, False, False], [False, False, False]])
    merged = merge_masks(padding, pairs, torch.float32)
    assert torch.equal(merged == -torch.inf, (padding[:, None, None] | pairs).expand(2, 1, 2, 3))
    assert set(merged.unique().tolist()) == {-math.inf, 0.0}
    per_item = torch.randn(2, 2, 3)
    assert torch.equal(merge_masks(None, per_item, torch.float64), per_item.double().unsqueeze(1))
    per_head = torch.randn(2, 4, 2, 3)
    assert torch.equal(merge_masks(None, per_head, torch.float32), per_head)
    floats = torch.zeros(2, 3).masked_fill(padding, -torch.inf)
    assert torch.equal(merge_masks(floats, pairs, torch.float32), merged)
    assert merge_masks(None, None, torch.float32) is None
