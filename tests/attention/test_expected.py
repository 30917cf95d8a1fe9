"""Expected centres: the definition, its gradients, the fast path, what must hold whatever the numbers."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.attention.expected import CHOICES, ExpectedAttention, expected_centres

E, H = 8, 2


def layer(dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    made = ExpectedAttention(E, H, dtype=dtype, **{"bias": "gaussian", "offset_scale": 2.0, **options})
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.endswith(("weight", "proj.bias")) or name.startswith("shift"):
                parameter.add_(0.3 * torch.randn_like(parameter))  # gates and shifts start at zero
    return made.eval()


def inputs(batch=2, m=3, n=5, keys=None, dtype=torch.float64, seed=1):
    torch.manual_seed(seed)
    return (torch.randn(batch, length, E, dtype=dtype) for length in (m, keys or n, n))


def literally(made, query, context, content):
    """The definition in loops: one query of one head at a time."""
    batch, m, _ = query.shape
    n = content.shape[1]
    padded = torch.cat([context, context.new_zeros(batch, n - context.shape[1], E)], 1)
    d = E // H
    output = query.new_zeros(batch, m, E)
    for b, h, i in product(range(batch), range(H), range(m)):
        part = slice(h * d, (h + 1) * d)
        q = made.q_proj(query[b, i])[part]
        k, v = made.k_proj(padded[b])[:, part], made.v_proj(content[b])[:, part]
        scores = k @ q / math.sqrt(d)
        keys = context.shape[1]
        p = scores[:keys].softmax(0)
        centre = sum(p[j] * j for j in range(keys)) + made.shift_scale * made.shift(query[b, i])[h]
        gamma = made.gate[h].sigmoid()
        f = torch.stack([made.bias((j - centre).reshape(1))[0, h] for j in range(n)])
        output[b, i, part] = ((1 - gamma) * scores + f).softmax(0) @ v
    return made.out_proj(output)


@pytest.mark.parametrize("bias", ["mlp", "gaussian", "fourier"])
@pytest.mark.parametrize("keys", [5, 3])
@pytest.mark.parametrize("backend", ["auto", "oracle", "sdpa"])
def test_the_layer_is_its_definition(bias, keys, backend):
    made = layer(bias=bias, backend=backend)
    given_ = list(inputs(keys=keys))
    torch.testing.assert_close(made(*given_).output, literally(made, *given_))


@pytest.mark.parametrize("bias", ["mlp", "gaussian", "fourier"])
@pytest.mark.parametrize("n", [5, 200])
@pytest.mark.parametrize("shape", [(), (2,), (2, H)])
def test_a_mask_of_any_shape_forbids_what_it_says(bias, n, shape):
    made = layer(bias=bias)
    query, context, content = inputs(m=4, n=n)
    mask = torch.rand(*shape, 4, n) < 0.5
    mask[..., 0] = False
    found = made(query, context, content, attn_mask=mask).output
    made.backend = "oracle"
    torch.testing.assert_close(found, made(query, context, content, attn_mask=mask).output)
    assert not torch.allclose(found, made(query, context, content).output)


@pytest.mark.parametrize("n", [40, 200])
def test_the_table_of_the_papers_f_is_the_definition(n):
    made = layer(bias="mlp")
    query, context, content = (x.requires_grad_() for x in inputs(m=7, n=n))
    weights = torch.randn(2, 7, E, dtype=torch.float64)
    leaves = [query, context, content, *(p for name, p in made.named_parameters() if "second.bias" not in name)]
    found = made(query, context, content).output
    grads = torch.autograd.grad((found * weights).sum(), leaves)
    made.backend = "sdpa"
    expected = made(query, context, content).output
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(grads, torch.autograd.grad((expected * weights).sum(), leaves), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("bias", ["gaussian", "fourier"])
def test_two_fused_passes_are_the_definition(bias):
    made = layer(bias=bias, backend="folded")
    query, context, content = (x.requires_grad_() for x in inputs(m=7, n=40))
    found = made(query, context, content).output
    weights = torch.randn_like(found)
    grads = torch.autograd.grad((found * weights).sum(), [query, context, content, *made.parameters()])
    made.backend = "oracle"
    expected = made(query, context, content).output
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    wanted = torch.autograd.grad((expected * weights).sum(), [query, context, content, *made.parameters()])
    torch.testing.assert_close(grads, wanted, rtol=1e-7, atol=1e-9)


OPTIONS = [{key: value} for key, values in CHOICES.items() for value in values] + [
    {"carried": True},
    {"detach_centres": True},
    {"centres_per_head": 3},
    {"bias": "mlp"},
]


@pytest.mark.parametrize("options", [o for o in OPTIONS if "detach_centres" not in o], ids=str)
def test_gradients_of_every_option(options):
    made = layer(backend="oracle", **options)
    query, context, content = (x.requires_grad_() for x in inputs(batch=1, m=2, n=4))
    before = torch.rand(1, H, 2, dtype=torch.float64).requires_grad_() if options.get("carried") else None
    given_ = [x for x in (query, context, content, before) if x is not None]
    assert torch.autograd.gradcheck(lambda *x: made(*x).output, given_)
    assert torch.autograd.gradcheck(lambda *x: made(*x).centres, given_)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_is_its_items(options):
    made = layer(**options)
    whole = made(*inputs(batch=3))
    for b, items in enumerate(zip(*inputs(batch=3), strict=True)):
        one = made(*(x.unsqueeze(0) for x in items))
        torch.testing.assert_close(one.output[0], whole.output[b])
        torch.testing.assert_close(one.centres[0], whole.centres[b])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 5), st.sampled_from(OPTIONS))
def test_shapes_and_centres_within_the_keys(batch, m, keys, more, options):
    made = layer(**{"shift_from": "none", **options})
    read = made(*inputs(batch, m, keys + more, keys), need_weights=True)
    assert read.output.shape == (batch, m, E)
    assert read.centres.shape == (batch, H, m)
    assert read.weights.shape == (batch, H, m, keys + more)
    torch.testing.assert_close(read.weights.sum(-1), torch.ones(batch, H, m, dtype=torch.float64))
    if not made.carried and made.shift is None:
        last = torch.tensor(keys - 1.0) if made.rate is None else (keys - 1) * made.rate[:, None]
        assert (read.centres >= last.clamp(max=0) - 1e-9).all()
        assert (read.centres <= last.clamp(min=0) + 1e-9).all()


def test_a_sharp_key_draws_the_centre_to_itself():
    q = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    k = 60 * torch.eye(4, dtype=torch.float64)[None, None]
    q[0, 0] = torch.eye(4)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(expected_centres(q[:, :, order], k)[0, 0], torch.tensor(order, dtype=torch.float64))


def test_moving_the_keys_moves_the_centres():
    """Keys further back by s tokens, behind keys that nobody wants, are expected s tokens further."""
    torch.manual_seed(0)
    q, k = torch.rand(1, H, 3, 4, dtype=torch.float64) + 1, torch.randn(1, H, 5, 4, dtype=torch.float64)
    unwanted = torch.full((1, H, 2, 4), -1e3, dtype=torch.float64)
    before = expected_centres(q, torch.cat([k, unwanted], 2))
    torch.testing.assert_close(expected_centres(q, torch.cat([unwanted, k], 2)), before + 2)


def test_forbidden_keys_are_not_expected():
    made = layer(shift_from="none")
    hidden = torch.tensor([[False, True, True, True, True]]).expand(2, -1)
    assert (made(*inputs(), key_padding_mask=hidden).centres == 0).all()


def test_options_do_what_they_say():
    query, context, content = inputs()
    detached = layer(detach_centres=True, shift_from="none", gate="closed", backend="oracle")
    detached(query, context, content).output.sum().backward()
    assert detached.q_proj.weight.grad is None or not detached.q_proj.weight.grad.any()
    together = layer(centres_of="all")(query, context, content).centres
    torch.testing.assert_close(together, together[:, :1].expand(-1, H, -1))
    one, three = layer(shift_from="none"), layer(shift_from="none", centres_per_head=3)
    three.load_state_dict(one.state_dict(), strict=False)
    torch.testing.assert_close(three(query, context, content).output, one(query, context, content).output)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"gate": "half"}, "gate must be one of learned, open, closed"),
        ({"bias": "none"}, "need a bias"),
        ({"centres_per_head": 0}, "at least 1"),
        ({"backend": "flex"}, "backend must be"),
        ({"backend": "folded", "bias": "mlp"}, "needs a separable bias"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, line):
    with pytest.raises(ValueError, match=line):
        ExpectedAttention(E, H, **{"bias": "gaussian", **options})
