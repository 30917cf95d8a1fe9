import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.attention import CentreUpdate, MLPBias, offsets


def make_bias(heads=3, hidden=7, scale=1.0, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    bias = MLPBias(heads, hidden, scale, dtype=dtype)
    with torch.no_grad():
        # Spread the kinks over the offsets that occur.
        bias.first.bias.uniform_(-8, 8).mul_(bias.first.weight.squeeze(-1).abs() / scale)
    return bias


def literal(bias, centres, n):
    return bias(offsets(centres, n)).permute(0, 3, 1, 2)


def by_hand(bias, offset):
    w, b = bias.first.weight.flatten().tolist(), bias.first.bias.tolist()
    out, shift = bias.second.weight.tolist(), bias.second.bias.tolist()
    return [
        sum(row[u] * max(0.0, w[u] * offset / bias.offset_scale + b[u]) for u in range(len(w))) + shift[h]
        for h, row in enumerate(out)
    ]


def test_forward_is_the_definition():
    bias = make_bias(scale=2.5)
    grid = torch.tensor([-3.0, 0.0, 0.5, 4.0], dtype=torch.float64)
    expected = torch.tensor([by_hand(bias, p) for p in grid.tolist()], dtype=torch.float64)
    torch.testing.assert_close(bias(grid), expected)
    assert bias(grid.reshape(2, 2)).shape == (2, 2, 3)


@given(
    m=st.integers(1, 9),
    n=st.integers(1, 9),
    heads=st.integers(1, 3),
    hidden=st.integers(1, 9),
    scale=st.sampled_from([0.5, 1.0, 10.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_fast_paths_equal_f(m, n, heads, hidden, scale, seed):
    bias = make_bias(heads, hidden, scale, seed)
    positions = torch.arange(m, dtype=torch.float64)
    expected = literal(bias, positions.unsqueeze(0), n)
    torch.testing.assert_close(bias.at_positions(m, n), expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bias.at_centres(positions.unsqueeze(0), n), expected, rtol=1e-10, atol=1e-10)
    centres = positions + 3 * torch.randn(2, m, dtype=torch.float64)
    torch.testing.assert_close(bias.at_centres(centres, n), literal(bias, centres, n), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_fast_paths_in_single_precision(scale):
    bias = make_bias(4, 64, scale, dtype=torch.float32)
    centres = torch.arange(33.0) + 3 * torch.randn(4, 33)
    size = literal(bias, centres, 33).abs().max().item()
    torch.testing.assert_close(bias.at_centres(centres, 33), literal(bias, centres, 33), rtol=1e-5, atol=1e-5 * size)
    plain = torch.arange(33.0).unsqueeze(0)
    torch.testing.assert_close(bias.at_positions(33, 33), literal(bias, plain, 33)[0], rtol=1e-5, atol=1e-5 * size)


def test_dead_units():
    bias = make_bias(hidden=6)
    with torch.no_grad():
        bias.first.weight[:2] = 0.0
        bias.first.bias[0], bias.first.bias[1] = 2.0, -2.0
    centres = 5 * torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(bias.at_centres(centres, 6), literal(bias, centres, 6))
    with torch.no_grad():
        bias.first.weight.zero_()
    constant = bias.at_centres(centres, 6)
    torch.testing.assert_close(constant, literal(bias, centres, 6))
    torch.testing.assert_close(constant, constant[..., :1, :1].expand_as(constant))
    for one in torch.autograd.grad(constant.sum(), list(bias.parameters())):
        assert one.isfinite().all()


def test_gradients_of_dead_units():
    bias = make_bias(hidden=4)
    with torch.no_grad():
        bias.first.weight[:2] = 0.0
        bias.first.bias[0], bias.first.bias[1] = 2.0, -2.0
    centres = 3 * torch.randn(2, 4, dtype=torch.float64)
    direction = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    found = torch.autograd.grad(bias.at_centres(centres, 6), list(bias.parameters()), direction)
    expected = torch.autograd.grad(literal(bias, centres, 6), list(bias.parameters()), direction)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_offsets_on_kinks():
    bias = make_bias(heads=2, hidden=5)
    with torch.no_grad():
        bias.first.weight.copy_(torch.tensor([1.0, -1.0, 2.0, -0.5, 1.0]).unsqueeze(-1))
        bias.first.bias.copy_(torch.tensor([0.0, 1.0, -4.0, 1.0, 0.0]))  # kinks 0, 1, 2, 2, 0
    kinks = bias.pieces()[0]
    assert kinks.tolist() == pytest.approx([0, 0, 1, 2, 2])
    centres = torch.tensor([[0.0, 1.0, 2.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(bias.at_centres(centres, 4), literal(bias, centres, 4))


def test_far_offsets():
    bias = make_bias()
    centres = torch.tensor([[1e6, -1e6]], dtype=torch.float64)
    torch.testing.assert_close(bias.at_centres(centres, 3), literal(bias, centres, 3))


def test_gradcheck_of_forward_and_positions():
    bias = make_bias(heads=2, hidden=4, scale=1.5)
    parameters = tuple(bias.parameters())
    offset = torch.tensor([-2.3, 0.4, 3.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: bias(x), (offset, *parameters))
    assert torch.autograd.gradcheck(lambda *_: bias.at_positions(3, 4), parameters)


def test_gradcheck_at_centres():
    bias = make_bias(heads=2, hidden=4, scale=1.5)
    centres = torch.tensor([[0.3, 1.7, 0.9], [-0.6, 2.2, 5.4]], dtype=torch.float64, requires_grad=True)
    distance = (offsets(centres, 4).unsqueeze(-1) - bias.pieces()[0]).abs().min()
    assert distance > 1e-3
    assert torch.autograd.gradcheck(lambda x, *_: bias.at_centres(x, 4), (centres, *bias.parameters()))
    expected = torch.autograd.grad(literal(bias, centres, 4).square().sum(), (centres, *bias.parameters()))
    found = torch.autograd.grad(bias.at_centres(centres, 4).square().sum(), (centres, *bias.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_whole_number_centres_may_be_integers():
    bias = make_bias(dtype=torch.float32)
    centres = torch.tensor([[0, 2, 5]])
    torch.testing.assert_close(bias.at_centres(centres, 4), literal(bias, centres.float(), 4))


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="offset_scale"):
        MLPBias(2, offset_scale=scale)


def test_centre_update_starts_at_rest():
    update = CentreUpdate(5, scale=10.0)
    centres = torch.tensor([0.0, 1.5, -2.0])
    assert torch.equal(update(centres, torch.randn(2, 3, 5)), centres.expand(2, 3))


def test_centre_update_formula():
    update = CentreUpdate(4, scale=10.0)
    with torch.no_grad():
        update.step.weight.copy_(torch.tensor([[1.0, 0.0, -2.0, 0.5]]))
        update.step.bias.fill_(0.25)
    output = torch.tensor([[[1.0, 9.0, 0.5, 2.0]]])
    assert update(torch.tensor([[3.0]]), output).item() == pytest.approx(3 + 10 * (1 - 1 + 1 + 0.25))
