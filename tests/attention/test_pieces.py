import pytest
import torch

from indattn.attention import IndirectAttention, MLPBias
from indattn.attention.bias import pieces_of
from indattn.attention.functional import indirect_attention, offsets
from indattn.attention.layers import prepare
from indattn.attention.pieces import make_pieces, search
from indattn.attention.short import backward_short, forward_short


def parameters(layers=(), hidden=7, heads=3, dtype=torch.float64):
    """With two dead units, one of them on, and two kinks in one place, one unit on before it and one after."""
    torch.manual_seed(0)
    slope, start = (torch.randn(*layers, hidden, dtype=dtype) for _ in range(2))
    slope[..., :2], start[..., 0], start[..., 1] = 0, 0.5, -0.5
    slope[..., 2], slope[..., 3] = 0.7, -0.7
    start[..., 2], start[..., 3] = 0.35, -0.35
    made = slope, start, torch.randn(*layers, heads, hidden, dtype=dtype), torch.randn(*layers, heads, dtype=dtype)
    return [x.requires_grad_() for x in made]


def definition(slope, start, out, shift, offset):
    """``(H, b, m, n)`` at offsets ``(b, m, n)``."""
    units = (slope * offset.unsqueeze(-1) + start).relu()
    return (units @ out.t() + shift).movedim(-1, 0)


def same(ours, theirs, leaves, **tolerance):
    torch.testing.assert_close(ours, theirs, **tolerance)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    grads = [torch.autograd.grad(x, leaves, direction, retain_graph=True) for x in (ours, theirs)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_looking_up_is_the_definition():
    leaves = parameters()
    # -0.5 is the kink two units share; far offsets lie in the outermost pieces.
    centres = torch.tensor([[0.5, 1.5, -40.0], [0.123, 2.7, 60.0]], dtype=torch.float64, requires_grad=True)
    theirs = definition(*leaves, offsets(centres, 5))
    pieces = make_pieces(*leaves)
    found = search(pieces, centres, 5)
    torch.testing.assert_close(found.bias, theirs)
    direction = torch.randn_like(theirs)
    grad_centres, grad_lines = found.backward(direction, 8)
    grads = torch.autograd.grad(pieces.lines, leaves, grad_lines)
    expected = torch.autograd.grad(theirs, [centres, *leaves], direction)
    for one, other in zip([grad_centres, *grads], expected, strict=True):
        torch.testing.assert_close(one, other)


def test_float32_loses_no_more_than_the_definition():
    leaves = [x.detach() for x in parameters(hidden=64)]
    centres = torch.arange(10.0).unsqueeze(0) + 0.3
    exact = definition(*leaves, offsets(centres.double(), 10))
    rounded = [x.float() for x in leaves]
    found = search(make_pieces(*rounded), centres, 10).bias
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 2e-6 * exact.abs().max()


def test_several_layers_at_once_are_each_alone():
    leaves = parameters((3,))
    together = make_pieces(*leaves)
    assert together.lines.shape == (3, 6, 8)
    for layer in range(3):
        alone = make_pieces(*(x[layer] for x in leaves))
        assert torch.equal(together.kinks[layer], alone.kinks)
        same(together.lines[layer], alone.lines, leaves)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 20])  # rows shorter than a register have a softmax of their own
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_short_attention_is_the_definition(n, shared, masked):
    torch.manual_seed(0)
    q, k, v, bias = leaves = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 5, 4), (2, 3, n, 4), (2, 3, n, 6), (3, 1 if shared else 2, 5, n))
    ]
    mask = torch.randn(2, 1, 1, n, dtype=torch.float64) if masked else None
    theirs, _ = indirect_attention(q, k, v, bias.transpose(0, 1), mask, scale=0.4)
    with torch.no_grad():
        ours, saved = forward_short(q, k, v, bias, mask, 0.4)
        direction = torch.randn_like(ours)
        *grads, grad_bias = backward_short(direction, saved, 0.4)
    torch.testing.assert_close(ours, theirs)
    grads.append(grad_bias.sum(1, keepdim=True) if shared else grad_bias)
    for one, other in zip(grads, torch.autograd.grad(theirs, leaves, direction), strict=True):
        torch.testing.assert_close(one, other)


def test_short_attention_takes_large_scores():
    q = torch.full((1, 1, 1, 1), 1e4)
    k, v = torch.tensor([1.0, 2.0, -3.0]).view(1, 1, 3, 1), torch.eye(3).view(1, 1, 3, 3)
    assert forward_short(q, k, v, torch.zeros(1, 1, 1, 3), None, 1.0)[0].flatten().tolist() == [0, 1, 0]


def stack(count=3, biases=None, **options):
    torch.manual_seed(0)
    options = {"bias_hidden": 8, "offset_scale": 2.0, "dtype": torch.float64} | options
    return [IndirectAttention(8, 2, **({"bias": biases[i]} if biases else {}), **options) for i in range(count)]


def run(layers, pieces):
    x = torch.randn(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    centres = torch.arange(6, dtype=torch.float64) + torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 6)
    y = x
    for layer, prepared in zip(layers, pieces, strict=True):
        y = layer(y, x, x, centres, pieces=prepared).output
    return y


@pytest.mark.parametrize("shared", [False, True])
def test_layers_prepared_together_are_layers_alone(shared):
    f = MLPBias(2, 8, 2.0, dtype=torch.float64)
    layers = stack(biases=[f] * 3) if shared else stack()
    leaves = list({id(p): p for layer in layers for p in layer.parameters() if p is not layer.k_proj.bias}.values())
    leaves = [p for p in leaves if all(p is not q for layer in layers for q in layer.centre_update.parameters())]
    pieces = prepare(layers, 6)
    assert all(one is not None for one in pieces)
    assert (pieces[0] is pieces[1]) == shared
    same(run(layers, pieces), run(layers, [None] * 3), leaves)


def test_nothing_is_prepared_in_vain():
    assert prepare(stack(), 6) != [None] * 3
    assert prepare(stack(), 500) == [None] * 3  # windows
    assert prepare(stack(bias="gaussian"), 6) == [None] * 3
    assert prepare(stack(bias="none"), 6) == [None] * 3
    assert prepare(stack(backend="sdpa"), 6) == [None] * 3


def test_pieces_of_one_f_and_of_several():
    biases = [MLPBias(2, 8, 2.0) for _ in range(3)]
    for alone, together in zip(biases, pieces_of(biases), strict=True):
        assert torch.equal(alone.pieces().kinks, together.kinks)
        torch.testing.assert_close(alone.pieces().lines, together.lines)


def test_prepares_layers_of_different_kinds_beside_each_other():
    torch.manual_seed(0)
    layers = [
        IndirectAttention(16, 2, bias="mlp", bias_hidden=8),
        IndirectAttention(16, 2, bias="mlp", bias_hidden=12),
        IndirectAttention(16, 2, bias="mlp", bias_hidden=8, dtype=torch.float64),
        IndirectAttention(16, 2, bias="mlp", dropout=0.5),
        IndirectAttention(16, 2, bias="none"),
    ]
    made = prepare(layers, 6)
    assert [pieces is None for pieces in made] == [False, False, False, True, True]
    assert made[2].lines.dtype == torch.float64
    for layer, pieces in zip(layers[:3], made[:3], strict=True):
        x = torch.randn(2, 6, 16, dtype=layer.q_proj.weight.dtype)
        assert torch.equal(layer(x, x, x, pieces=pieces).output, layer(x, x, x).output)


def test_an_empty_batch_has_empty_gradients():
    layer = IndirectAttention(8, 2, bias="mlp")
    x = torch.randn(0, 6, 8, requires_grad=True)
    layer(x, x, x).output.sum().backward()
    assert x.grad.shape == (0, 6, 8)
    assert all((p.grad == 0).all() for p in layer.bias.parameters() if p.grad is not None)
