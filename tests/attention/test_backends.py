import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.attention import BoxBias, FourierBias, GaussianBias, MLPBias, PositionBias, attend, blocks, folded, table
from indattn.attention.backends import FOLD_TOLERANCE, why_not

FAMILIES = ("mlp", "gaussian", "fourier", "box")
WAYS = [
    (family, backend)
    for family in FAMILIES
    for backend in ("sdpa", "blocked", "folded" if family != "mlp" else "table", "auto")
]
GRID = (4, 5)


class Sinc(PositionBias):
    """An own family: only its definition."""

    def __init__(self, num_heads, offset_scale=1.0, device=None, dtype=None):
        super().__init__(num_heads, offset_scale)
        self.width = torch.nn.Parameter(torch.linspace(0.5, 1.5, num_heads, device=device, dtype=dtype))

    def forward(self, offset):
        return torch.sinc(offset.unsqueeze(-1) / self.offset_scale * self.width)


def made(family, heads=2, scale=3.0, dtype=torch.float64, grid=GRID, hidden=9):
    torch.manual_seed(3)
    if family == "mlp":
        bias = MLPBias(heads, hidden, scale, dtype=dtype)
        with torch.no_grad():  # two dead units, one of them on, and two kinks in one place
            bias.first.weight[:2] = 0
            bias.first.bias[:2] = torch.tensor([0.5, -0.5])
            bias.first.weight[2:4] = torch.tensor([[0.7], [-0.7]])
            bias.first.bias[2:4] = torch.tensor([0.35, -0.35])
        return bias
    if family == "gaussian":
        bias = GaussianBias(heads, scale, dtype=dtype)
        with torch.no_grad():
            bias.shift.copy_(torch.linspace(-0.6, 0.8, heads))
        return bias
    if family == "fourier":
        return FourierBias(heads, 3, scale, dtype=dtype)
    return BoxBias(heads, grid, 6, scale, dtype=dtype) if family == "box" else Sinc(heads, scale, dtype=dtype)


def inputs(bias, batch=2, m=4, n=20, width=4, v_width=4, dtype=torch.float64, spread=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    heads = bias.num_heads
    q, k, v = draw(batch, heads, m, width), draw(batch, heads, n, width), draw(batch, heads, n, v_width)
    plain = bias.plain_centres(m).detach()
    centres = plain * (n / m if bias.centre_size == 1 else 1.0) + spread * draw(batch, *plain.shape[1:])
    return [x.requires_grad_() for x in (q, k, v, centres)]


def compare(bias, leaves, backend, mask=None, plain=False, rtol=1e-9, atol=1e-10):
    q, k, v, centres = leaves
    leaves = [q, k, v, *([] if plain else [centres]), *bias.parameters()]
    outputs = [attend(q, k, v, bias, None if plain else centres, mask, backend=name) for name in ("oracle", backend)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=rtol, atol=atol)
    direction = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = direction.to(outputs[0])
    grads = [torch.autograd.grad(output, leaves, direction) for output in outputs]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, one, rtol=rtol, atol=atol * max(1.0, one.abs().max().item()))


def random_mask(*shape, seed=5):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randn(shape, generator=generator, dtype=torch.float64)
    return mask.masked_fill(torch.rand(shape, generator=generator) < 0.3, -torch.inf)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("family", "backend"), [*WAYS, ("sinc", "blocked"), ("sinc", "auto")])
def test_every_backend_equals_the_oracle(family, backend, plain):
    bias = made(family)
    compare(bias, inputs(bias), backend, plain=plain)


@pytest.mark.parametrize(("family", "backend"), WAYS)
def test_long_sequences_too(family, backend):
    grid = (10, 20)
    bias = made(family, grid=grid)
    compare(bias, inputs(bias, m=30, n=math.prod(grid), spread=8.0), backend)


@pytest.mark.parametrize("shape", [(2, 1, 1, 20), (1, 1, 4, 20), (2, 2, 4, 20), (4, 20)])
@pytest.mark.parametrize(("family", "backend"), WAYS)
def test_masks(family, backend, shape):
    bias = made(family)
    mask = random_mask(*shape)
    mask[..., -1, :] = -torch.inf  # a row with nothing to read
    q, k, v, centres = inputs(bias)
    compare(bias, (q, k, v, centres), backend, mask=mask)
    output = attend(q, k, v, bias, centres, mask, backend=backend)
    forbidden = (mask == -torch.inf).all(-1).expand(*q.shape[:3])
    assert forbidden.any()
    assert (output[forbidden] == 0).all()
    gradient = torch.autograd.grad(output.sum(), q)[0]
    assert (gradient[forbidden] == 0).all()


@given(
    family=st.sampled_from(FAMILIES[:3]),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    m=st.integers(1, 6),
    n=st.integers(1, 9),
    width=st.integers(1, 5),
    v_width=st.integers(1, 12),
    windowed=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_shape(family, batch, heads, m, n, width, v_width, windowed, seed):
    bias = made(family, heads)
    leaves = inputs(bias, batch, m, n, width, v_width, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "FEWEST_WINDOWED", 1 if windowed else 100)
        patch.setattr(blocks, "BLOCK_ELEMENTS", {"cpu": 1 + seed % 200})
        for backend in ("sdpa", "blocked", "table" if family == "mlp" else "folded"):
            compare(bias, leaves, backend)


@pytest.mark.parametrize("windowed", [True, False])
def test_gradcheck_of_the_table(windowed, monkeypatch):
    monkeypatch.setattr(table, "FEWEST_WINDOWED", 1 if windowed else 100)
    bias = MLPBias(2, 5, 2.0, dtype=torch.float64)
    leaves = inputs(bias, batch=1, m=2, n=6)
    # Away from kinks: there f has no derivative.
    distance = (bias.pieces()[0] - torch.arange(6).unsqueeze(-1) + leaves[3].detach().unsqueeze(-1).unsqueeze(-1)).abs()
    assert distance.min() > 1e-4
    assert torch.autograd.gradcheck(
        lambda q, k, v, c, *_: attend(q, k, v, bias, c, backend="table"), (*leaves, *bias.parameters())
    )


@pytest.mark.parametrize(("family", "backend"), [("gaussian", "folded"), ("fourier", "folded"), ("sinc", "blocked")])
def test_gradcheck(family, backend):
    bias = made(family)
    leaves = inputs(bias, batch=2, m=2, n=4)
    assert torch.autograd.gradcheck(
        lambda q, k, v, c, *_: attend(q, k, v, bias, c, backend=backend), (*leaves, *bias.parameters())
    )


def test_only_the_oracle_is_differentiated_twice():
    bias = made("mlp")
    q, k, v, centres = inputs(bias, m=2, n=4)
    assert torch.autograd.gradgradcheck(
        lambda q, k, v: attend(q, k, v, bias, centres.detach(), backend="oracle"), (q, k, v)
    )
    for backend in ("table", "blocked"):
        (grad,) = torch.autograd.grad(
            attend(q, k, v, bias, centres, backend=backend).square().sum(), q, create_graph=True
        )
        with pytest.raises(RuntimeError):
            torch.autograd.grad(grad.sum(), q)


# Accuracy


def error(bias, backend, n, dtype, m=16, spread=5.0):
    """Largest relative error of an output against the oracle in float64."""
    exact = [x.detach().to(dtype).double() for x in inputs(bias.double(), 1, m, n, 16, 16, spread=spread)]
    expected = attend(*exact[:3], bias, exact[3], backend="oracle")
    q, k, v = (x.to(dtype) for x in exact[:3])
    with torch.no_grad():
        output = attend(q, k, v, bias.float(), exact[3].float(), backend=backend)
    assert output.dtype == dtype
    return ((output.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("n", [60, 512, 4096])
@pytest.mark.parametrize("scale", [1.0, 3.0, 16.0, 512.0])
@pytest.mark.parametrize("family", ["mlp", "gaussian", "fourier"])
def test_float32_is_within_2e_5(family, scale, n):
    assert error(made(family, scale=scale, hidden=64), "auto", n, torch.float32) < 2e-5


@pytest.mark.parametrize(
    ("family", "backend"), [way for way in WAYS if way[0] != "box" and way != ("gaussian", "folded")]
)
def test_bfloat16_is_within_2_percent(family, backend):
    assert error(made(family, scale=16.0, hidden=64), backend, 512, torch.bfloat16) < 2e-2


@pytest.mark.parametrize("n", [64, 512, 4096])
@pytest.mark.parametrize("scale", [4.0, 16.0, 64.0, 1024.0])
@pytest.mark.parametrize("family", ["gaussian", "fourier"])
def test_the_bound_on_folding_holds(family, scale, n):
    bias = made(family, scale=scale)
    bound = bias.float().fold_error(n, torch.float32)
    assert error(bias, "folded", n, torch.float32) < 2 * bound + 2e-6


def test_auto_does_not_fold_what_would_be_wrong():
    wide, narrow = made("gaussian", scale=2048.0).float(), made("gaussian", scale=4.0).float()
    assert wide.fold_error(2048, torch.float32) < FOLD_TOLERANCE[torch.float32] < narrow.fold_error(2048, torch.float32)
    assert error(narrow, "folded", 2048, torch.float32) > 2e-5 > error(narrow, "auto", 2048, torch.float32)
    assert made("gaussian").fold_error(512, torch.bfloat16) > FOLD_TOLERANCE[torch.bfloat16]


# Odd input


def test_a_float32_bound_on_centres_is_no_window_too_far():
    bias = MLPBias(2, 4, 10.0)
    with torch.no_grad():
        bias.first.weight.copy_(torch.tensor([[1.0], [1.0], [-1.0], [0.5]]))
        bias.first.bias.copy_(torch.tensor([1.0, 0.2, 0.1, 0.3]))
    q, k, v, _ = inputs(bias, batch=1, m=4, n=128, dtype=torch.float32)
    centres = torch.tensor([[200.0, 138.0, 0.0, -300.0]], requires_grad=True)
    compare(bias, (q, k, v, centres), "table", rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("windowed", [True, False])
def test_far_centres_and_kinks_are_exact(windowed, monkeypatch):
    monkeypatch.setattr(table, "FEWEST_WINDOWED", 1 if windowed else 10**6)
    bias = made("mlp")
    q, k, v, _ = inputs(bias, batch=1, m=4, n=150)
    for centres in ([0.5, 75.0, 149.0, 151.5], [-40.25, 3.0, 600.0, 2e3], [1e6, -1e6, 0.0, -300.0]):
        leaf = torch.tensor([centres], dtype=torch.float64, requires_grad=True)
        # Far away the oracle itself loses the digits: f is as large as the offset.
        compare(bias, (q, k, v, leaf), "table", rtol=1e-7, atol=1e-10 if max(centres) < 1e6 else 1e-7)
    with torch.no_grad():
        bias.first.weight[5] = 1e-9  # its kink lies a billion tokens away
    compare(bias, (q, k, v, torch.tensor([[0.5, 75.0, 149.0, 300.0]], dtype=torch.float64).requires_grad_()), "table")


def test_whole_centres_on_kinks():
    bias = made("mlp", scale=1.0)
    with torch.no_grad():
        bias.first.weight.copy_(torch.tensor([[1.0], [-1], [2], [-2], [0.5], [-0.5], [4], [-4], [1]]))
        bias.first.bias.copy_(bias.first.weight.squeeze(-1) * torch.arange(-4, 5))  # kinks at whole numbers
    q, k, v, _ = inputs(bias, batch=1, m=4, n=150)
    centres = torch.tensor([[0.0, 3.0, 70.0, 149.0]], dtype=torch.float64)
    for few in (1, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table, "FEWEST_WINDOWED", few)
            for backend in ("table", "sdpa", "blocked"):
                compare(bias, (q, k, v, centres.requires_grad_()), backend)


@pytest.mark.parametrize("backend", ["table", "blocked", "sdpa"])
def test_a_centre_that_is_not_a_number_shows(backend):
    bias = made("mlp")
    for n in (20, 200):
        q, k, v, centres = (x.detach() for x in inputs(bias, n=n))
        centres[1, 2] = math.nan
        output = attend(q, k, v, bias, centres, backend=backend)
        assert output[1, :, 2].isnan().all()
        assert output[0].isfinite().all()


@pytest.mark.parametrize(("family", "backend"), [way for way in WAYS if way[0] != "box"])
def test_empty(family, backend):
    bias = made(family)
    for batch, m in ((0, 3), (2, 0)):
        q, k, v, centres = inputs(bias, batch=batch, m=max(m, 1))
        q, centres = q[:, :, :m], centres[:, :m]
        output = attend(q, k, v, bias, centres, backend=backend)
        assert output.shape == (batch, 2, m, 4)
        torch.autograd.grad(output.sum(), [k, v])


@pytest.mark.parametrize(("family", "backend"), WAYS)
def test_strides_do_not_matter(family, backend):
    bias = made(family)
    leaves = inputs(bias)
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in leaves[:3]]
    centres = leaves[3].detach().repeat_interleave(2, dim=1)[:, ::2].requires_grad_()
    assert not strided[0].is_contiguous()
    compare(bias, (*strided, centres), backend)


@pytest.mark.parametrize(("family", "backend"), WAYS)
def test_deterministic_mode(family, backend):
    bias = made(family)
    q, k, v, centres = inputs(bias, n=20)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [
            torch.autograd.grad(attend(q, k, v, bias, centres, backend=backend).sum(), [q, *bias.parameters()])
            for _ in range(2)
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("plain", [False, True])
def test_folding_item_by_item(plain, monkeypatch):
    monkeypatch.setattr(folded, "LARGE", 0)
    bias = made("fourier")
    compare(bias, inputs(bias, batch=3), "folded", mask=random_mask(3, 1, 4, 20), plain=plain)


def test_a_block_is_all_that_is_ever_made(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", {"cpu": 1000})
    bias = made("sinc")
    sizes = []
    whole = PositionBias.at_centres
    monkeypatch.setattr(PositionBias, "at_centres", lambda self, *a: sizes.append(whole(self, *a)) or sizes[-1])
    q, k, v, centres = inputs(bias, m=40, n=50)
    attend(q, k, v, bias, centres, backend="blocked").sum().backward()
    assert max(made.numel() for made in sizes) <= 1000
    assert sum(made.numel() for made in sizes) == 2 * (2 * 2 * 40 * 50)  # once forward, once backward


@pytest.mark.parametrize(("family", "backend"), WAYS)
def test_whole_numbers_as_centres(family, backend):
    bias = made(family)
    q, k, v, centres = (x.detach() for x in inputs(bias))
    whole = centres.round().long()
    torch.testing.assert_close(
        attend(q, k, v, bias, whole, backend=backend), attend(q, k, v, bias, whole.double(), backend=backend),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize(("family", "backend"), [way for way in WAYS if way != ("mlp", "table")])
def test_parameters_given_from_outside(family, backend):
    bias = made(family)
    q, k, v, centres = inputs(bias, m=16)

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.f = bias

        def forward(self, backend):
            return attend(q, k, v, self.f, centres, backend=backend)

    module = Attention()
    given = {name: (p.detach() * 1.5).requires_grad_() for name, p in module.named_parameters()}
    grads = [
        torch.autograd.grad(torch.func.functional_call(module, given, (name,)).square().sum(), list(given.values()))
        for name in ("oracle", backend)
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


# Choice


@pytest.mark.parametrize(
    ("backend", "family", "reason"),
    [
        ("table", "gaussian", "not piecewise linear"),
        ("folded", "mlp", "not separable"),
        ("folded", "sinc", "not separable"),
        ("flex", "fourier", "no form for FlexAttention"),
        ("flex", "mlp", "no gradients on cpu"),
        ("quick", "mlp", "backend must be one of"),
    ],
)
def test_a_backend_that_cannot_run_says_why(backend, family, reason):
    bias = made(family)
    q, k, v, centres = inputs(bias)
    with pytest.raises(ValueError, match=reason):
        attend(q, k, v, bias, centres, backend=backend)


def test_masks_are_numbers():
    bias = made("mlp")
    q, k, v, centres = inputs(bias)
    with pytest.raises(ValueError, match="floating type"):
        attend(q, k, v, bias, centres, torch.ones(4, 20, dtype=torch.bool))


def test_what_blocks_cannot_do():
    bias = made("mlp")
    q, k, v, centres = inputs(bias)
    mask = torch.zeros(4, 20, dtype=torch.float64, requires_grad=True)
    for backend in ("table", "blocked"):
        with pytest.raises(ValueError, match="drops no attention weights"):
            attend(q, k, v, bias, centres, dropout_p=0.1, backend=backend)
        with pytest.raises(ValueError, match="no gradient to the mask"):
            attend(q, k, v, bias, centres, mask, backend=backend)
    with pytest.raises(ValueError, match="there is no bias"):
        attend(q, k, v, backend="table")
    assert torch.autograd.grad(attend(q, k, v, bias, centres, mask).sum(), mask)[0].abs().sum() > 0
    assert attend(q, k, v, bias, centres, dropout_p=0.5).isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("family", ["mlp", "gaussian"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex(family, masked):
    bias = made(family).float()
    q, k, v, centres = inputs(bias, m=16, n=24, width=16, v_width=16, dtype=torch.float32)
    mask = random_mask(2, 1, 16, 24).float() if masked else None
    with torch.no_grad():
        assert why_not("flex", bias, q.device, None, 0.0) is None
        torch.testing.assert_close(
            attend(q, k, v, bias, centres, mask, backend="flex"), attend(q, k, v, bias, centres, mask, backend="oracle")
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize(("family", "backend"), [*WAYS, ("mlp", "flex"), ("gaussian", "flex")])
def test_cuda(family, backend, n):
    bias = made(family, grid=(4, n // 4)).float()
    leaves = inputs(bias, m=16, n=n, width=16, v_width=16, dtype=torch.float32)
    rounding = bias.fold_error(n, torch.float32) if backend == "folded" else 0.0
    leaves = [x.detach().cuda().requires_grad_() for x in leaves]
    compare(bias.cuda(), leaves, backend, rtol=1e-3, atol=max(1e-4, 10 * rounding))


# Compilers


def test_the_operators_are_sound():
    bias = made("mlp")
    q, k, v, centres = inputs(bias, batch=1, m=3, n=6)
    slope = (bias.first.weight.squeeze(-1) / 3.0).detach().requires_grad_()
    lines = [slope, *(x.detach().requires_grad_() for x in (bias.first.bias, bias.second.weight, bias.second.bias))]
    torch.library.opcheck(torch.ops.indattn.table_attention.default, (q, k, v, centres, *lines, None, 0.5))


@pytest.mark.parametrize("family", FAMILIES)
def test_compiles_whole(family):
    bias = made(family)
    leaves = inputs(bias, m=20, n=20)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    leaves_ = [*leaves, *bias.parameters()]
    outputs = [function(*leaves[:3], bias, leaves[3]) for function in (attend, compiled)]
    torch.testing.assert_close(*outputs)
    grads = [torch.autograd.grad(output.square().sum(), leaves_) for output in outputs]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
