import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from indattn.attention import BoxBias, GaussianBias, IndirectAttention, MLPBias

BATCH, QUERIES, VALUES, WIDTH, HEADS = 2, 4, 6, 8, 2


def make_layer(seed=0, width=WIDTH, heads=HEADS, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    layer = IndirectAttention(width, heads, bias_hidden=5, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in layer.parameters():  # nothing stays at its zero start
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def make_inputs(seed=1, batch=BATCH, m=QUERIES, n=VALUES, short=None, width=WIDTH):
    torch.manual_seed(seed)
    sizes = (m, n if short is None else short, n)
    return tuple(torch.randn(batch, size, width, dtype=torch.float64) for size in sizes)


def joint_permutation_effect(layer, centres=None):
    query, context, content = make_inputs()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    before = layer(query, context, content, centres).output
    after = layer(query, context[:, order], content[:, order], centres).output
    return (after - before).abs().max().item()


def test_joint_order_of_keys_and_values_is_free_without_bias():
    assert joint_permutation_effect(make_layer(bias="none")) < 1e-12


def test_joint_order_of_keys_and_values_matters_with_bias():
    assert joint_permutation_effect(make_layer()) > 1e-2
    assert joint_permutation_effect(make_layer(), torch.rand(BATCH, QUERIES, dtype=torch.float64)) > 1e-2


def test_values_carry_the_content_and_keys_the_context():
    layer = make_layer(bias="none")
    query, context, content = make_inputs()
    base = layer(query, context, content, need_weights=True)
    other = layer(query, context, 2 * content, need_weights=True)
    assert torch.equal(base.weights, other.weights)
    assert not torch.allclose(base.output, other.output)
    assert not torch.allclose(base.weights, layer(query, 2 * context, content, need_weights=True).weights)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("bias", ["none", "mlp"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_hidden_tail_is_as_if_cut_off(bias, need_weights, moved):
    layer = make_layer(bias=bias)
    query, context, content = make_inputs()
    centres = 3 * torch.rand(BATCH, QUERIES, dtype=torch.float64) if moved else None
    hidden = torch.zeros(BATCH, VALUES, dtype=torch.bool)
    hidden[:, 4:] = True
    masked = layer(query, context, content, centres, hidden, need_weights=need_weights)
    cut = layer(query, context[:, :4], content[:, :4], centres, need_weights=need_weights)
    torch.testing.assert_close(masked.output, cut.output)
    if bias == "mlp":
        torch.testing.assert_close(masked.centres, cut.centres)
    if need_weights:
        assert (masked.weights[..., 4:] == 0).all()


def test_hidden_positions_have_no_influence():
    layer = make_layer()
    query, context, content = make_inputs()
    hidden = torch.zeros(BATCH, VALUES, dtype=torch.bool)
    hidden[0, 2] = hidden[1, 5] = True
    before = layer(query, context, content, key_padding_mask=hidden).output
    context, content = context.clone(), content.clone()
    context[hidden], content[hidden] = 50.0, -50.0
    torch.testing.assert_close(layer(query, context, content, key_padding_mask=hidden).output, before)
    assert not torch.allclose(layer(query, context, content).output, before)


@pytest.mark.parametrize("bias", ["none", "mlp"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_item_with_everything_hidden_is_finite(bias, need_weights):
    layer = make_layer(bias=bias)
    query, context, content = (x.requires_grad_() for x in make_inputs())
    hidden = torch.tensor([[True] * VALUES, [False] * VALUES])
    output = layer(query, context, content, key_padding_mask=hidden, need_weights=need_weights).output
    torch.testing.assert_close(output[0], layer.out_proj.bias.expand(QUERIES, WIDTH))
    output.square().sum().backward()
    assert all(x.grad.isfinite().all() for x in (query, context, content))
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("bias", ["none", "mlp"])
def test_short_context_is_padded_with_zeros(bias):
    layer = make_layer(bias=bias)
    query, context, content = make_inputs(short=3)
    padded = torch.cat([context, context.new_zeros(BATCH, VALUES - 3, WIDTH)], dim=1)
    torch.testing.assert_close(layer(query, context, content).output, layer(query, padded, content).output)


@pytest.mark.parametrize("need_weights", [False, True])
def test_padded_keys_stay_attendable(need_weights):
    layer = make_layer()
    query, context, content = make_inputs(short=3)
    content.requires_grad_()
    read = layer(query, context, content, need_weights=need_weights)
    if need_weights:
        assert (read.weights > 0).all()
    read.output.square().sum().backward()
    assert (content.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("bias", ["none", "mlp"])
def test_batch_equals_items_one_by_one(bias, moved):
    layer = make_layer(bias=bias)
    query, context, content = make_inputs(batch=3, short=5)
    centres = 3 * torch.rand(3, QUERIES, dtype=torch.float64) if moved else None
    hidden = torch.zeros(3, VALUES, dtype=torch.bool)
    hidden[0, 4:] = hidden[2, 0] = True
    whole = layer(query, context, content, centres, hidden)
    for item in range(3):
        one = slice(item, item + 1)
        alone = layer(query[one], context[one], content[one], None if centres is None else centres[one], hidden[one])
        torch.testing.assert_close(alone.output, whole.output[one])
        if whole.centres is not None:
            torch.testing.assert_close(alone.centres, whole.centres[one])


@given(
    batch=st.integers(1, 3),
    n=st.integers(1, 6),
    missing_queries=st.integers(0, 5),
    missing_context=st.integers(0, 5),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_shapes(batch, n, missing_queries, missing_context, heads, head_dim, seed):
    width, m = heads * head_dim, max(1, n - missing_queries)
    layer = make_layer(seed, width=width, heads=heads)
    data = make_inputs(seed, batch, m, n, max(1, n - missing_context), width)
    fused, literal = layer(*data), layer(*data, need_weights=True)
    assert literal.output.shape == (batch, m, width)
    assert literal.centres.shape == (batch, m)
    assert literal.weights.shape == (batch, heads, m, n)
    torch.testing.assert_close(literal.bias.squeeze(0), layer.bias.at_positions(m, n))
    torch.testing.assert_close(fused.output, literal.output)
    torch.testing.assert_close(fused.centres, literal.centres)
    assert fused.weights is None
    assert fused.bias is None


def test_plain_positions_are_the_default_centres():
    layer = make_layer()
    query, context, content = make_inputs()
    plain = torch.arange(QUERIES, dtype=torch.float64).expand(BATCH, -1)
    torch.testing.assert_close(layer(query, context, content).output, layer(query, context, content, plain).output)
    shifted = layer(query, context, content, plain + 1).output
    assert not torch.allclose(shifted, layer(query, context, content).output)


def test_fewer_queries_read_as_the_first_of_many():
    layer = make_layer()
    query, context, content = make_inputs(m=VALUES)
    few, many = layer(query[:, :2], context, content), layer(query, context, content)
    torch.testing.assert_close(few.output, many.output[:, :2])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_heads": 3}, "does not divide"), ({"bias": "rpe"}, "bias"), ({"centre_update": "affine"}, "centre_update")],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        IndirectAttention(WIDTH, **{"num_heads": HEADS, **options})


def test_wrong_lengths():
    query, context, content = make_inputs(m=VALUES)
    with pytest.raises(ValueError, match="longer than the content"):
        make_layer()(query[:, :2], context, content[:, :4])
    with pytest.raises(ValueError, match="at most as many queries as values"):
        make_layer()(query, context[:, :4], content[:, :4])
    assert make_layer(bias="none")(query, context[:, :4], content[:, :4]).output.shape == (BATCH, VALUES, WIDTH)


def test_batch_first_false_transposes():
    first, second = make_layer(), make_layer(batch_first=False)
    second.load_state_dict(first.state_dict())
    data = make_inputs(short=5)
    centres = torch.rand(BATCH, QUERIES, dtype=torch.float64)
    expected = first(*data, centres, need_weights=True)
    found = second(*(x.transpose(0, 1) for x in data), centres, need_weights=True)
    torch.testing.assert_close(found.output.transpose(0, 1), expected.output)
    torch.testing.assert_close(found.centres, expected.centres)
    torch.testing.assert_close(found.weights, expected.weights)


def test_other_key_and_value_widths():
    layer = IndirectAttention(WIDTH, HEADS, kdim=3, vdim=5)
    read = layer(torch.randn(BATCH, 4, WIDTH), torch.randn(BATCH, 6, 3), torch.randn(BATCH, 6, 5))
    assert read.output.shape == (BATCH, 4, WIDTH)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    layer = IndirectAttention(WIDTH, HEADS, dtype=dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    data = [x.to(dtype) for x in make_inputs()]
    read = layer(*data)
    again = layer(*data, read.centres, need_weights=True)
    for tensor in (read.output, again.output, again.weights):
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()
    # Half precision has no whole numbers beyond 256: positions are never coarser than float32.
    assert read.centres.dtype == again.centres.dtype == torch.promote_types(dtype, torch.float32)


def test_no_projection_bias():
    layer = IndirectAttention(WIDTH, HEADS, bias="none", projection_bias=False)
    assert sum(p.numel() for p in layer.parameters()) == 4 * WIDTH * WIDTH


def test_dropout_only_while_training():
    layer = make_layer(dropout=0.5)
    data = make_inputs()
    assert not torch.allclose(layer(*data).output, layer(*data).output)
    layer.eval()
    assert torch.equal(layer(*data).output, layer(*data).output)


def test_centres_start_as_plain_positions():
    layer = IndirectAttention(WIDTH, HEADS, offset_scale=10.0, dtype=torch.float64)
    read = layer(*make_inputs())
    assert torch.equal(read.centres, torch.arange(QUERIES, dtype=torch.float64).expand(BATCH, -1))


def test_centres_move_by_what_was_read():
    layer = make_layer(offset_scale=10.0)
    read = layer(*make_inputs())
    step = layer.centre_update.step
    expected = torch.arange(QUERIES) + 10.0 * (read.output @ step.weight[0] + step.bias)
    torch.testing.assert_close(read.centres, expected)


def test_detached_centres_cut_the_gradient():
    data = make_inputs()
    assert make_layer()(*data).centres.requires_grad
    layer = make_layer(detach_centres=True)
    read = layer(*data)
    assert not read.centres.requires_grad
    torch.testing.assert_close(read.centres, make_layer()(*data).centres)
    make_layer(seed=1)(*data, read.centres).output.sum().backward()
    assert all(p.grad is None for p in layer.parameters())


def test_no_centre_update_passes_centres_on():
    layer = make_layer(centre_update="none")
    centres = torch.rand(BATCH, QUERIES, dtype=torch.float64)
    assert layer.centre_update is None
    assert layer(*make_inputs(), centres).centres is centres
    assert layer(*make_inputs()).centres is None
    assert make_layer(bias="none").centre_update is None


def test_shared_bias_module():
    bias = MLPBias(HEADS, 5, dtype=torch.float64)
    one, two = make_layer(seed=1, bias=bias), make_layer(seed=2, bias=bias)
    assert one.bias is two.bias
    data = make_inputs()
    read = one(*data)
    two(*data, read.centres).output.square().sum().backward()
    both = bias.first.weight.grad.clone()
    bias.first.weight.grad = None
    two(*data, read.centres.detach()).output.square().sum().backward()
    assert not torch.allclose(both, bias.first.weight.grad)


@pytest.mark.parametrize("need_weights", [False, True])
def test_gradcheck_through_moving_centres(need_weights):
    first, second = make_layer(3, width=4, offset_scale=2.0), make_layer(4, width=4, offset_scale=2.0)
    data = tuple(x.requires_grad_() for x in make_inputs(batch=1, m=2, n=3, short=2, width=4))
    parameters = (*first.parameters(), *second.bias.parameters(), *second.q_proj.parameters())

    def stack(query, context, content, *_):
        read = first(query, context, content, need_weights=need_weights)
        last = second(read.output, context, content, read.centres, need_weights=need_weights)
        return last.output, last.centres

    assert torch.autograd.gradcheck(stack, (*data, *parameters))


@pytest.mark.parametrize("widths", [{}, {"kdim": 3, "vdim": 5}])
def test_equals_torch_without_bias(widths):
    torch.manual_seed(0)
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64, **widths)
    nn.init.normal_(reference.in_proj_bias)
    nn.init.normal_(reference.out_proj.bias)
    layer = make_layer(bias="none", **widths)
    with torch.no_grad():
        if widths:
            weights = (reference.q_proj_weight, reference.k_proj_weight, reference.v_proj_weight)
        else:
            weights = reference.in_proj_weight.chunk(3)
        for projection, weight, bias in zip(
            (layer.q_proj, layer.k_proj, layer.v_proj), weights, reference.in_proj_bias.chunk(3), strict=True
        ):
            projection.weight.copy_(weight)
            projection.bias.copy_(bias)
        layer.out_proj.load_state_dict(reference.out_proj.state_dict())
    query = torch.randn(BATCH, QUERIES, WIDTH, dtype=torch.float64)
    context = torch.randn(BATCH, VALUES, widths.get("kdim", WIDTH), dtype=torch.float64)
    content = torch.randn(BATCH, VALUES, widths.get("vdim", WIDTH), dtype=torch.float64)
    hidden = torch.zeros(BATCH, VALUES, dtype=torch.bool)
    hidden[0, 4:] = hidden[1, 1] = True
    pairs = torch.rand(QUERIES, VALUES) < 0.3
    pairs[:, 0] = False
    added = torch.randn(QUERIES, VALUES, dtype=torch.float64)
    padding = {"key_padding_mask": hidden}
    for masks in ({}, padding, {**padding, "attn_mask": pairs}, {"attn_mask": added}):
        expected, weights = reference(query, context, content, average_attn_weights=False, **masks)
        found = layer(query, context, content, need_weights=True, **masks)
        torch.testing.assert_close(found.output, expected)
        torch.testing.assert_close(found.weights, weights)
        torch.testing.assert_close(layer(query, context, content, **masks).output, expected)


WAYS = [
    ("mlp", "table"), ("mlp", "blocked"), ("gaussian", "folded"), ("gaussian", "sdpa"), ("fourier", "folded"),
]  # fmt: skip


def test_state_dict_is_what_the_docstring_says():
    projections = {f"{name}_proj.{part}" for name in "qkv" for part in ("weight", "bias")}
    projections |= {"out_proj.weight", "out_proj.bias"}
    own = {
        "none": set(),
        "mlp": {"bias.first.weight", "bias.first.bias", "bias.second.weight", "bias.second.bias"},
        "gaussian": {"bias.weight", "bias.shift"},
        "fourier": {"bias.frequency", "bias.cosine", "bias.sine"},
    }
    for family, names in own.items():
        moves = set() if family == "none" else {"centre_update.step.weight", "centre_update.step.bias"}
        layer = IndirectAttention(8, 2, bias=family)
        assert set(layer.state_dict()) == projections | names | moves
        other = IndirectAttention(8, 2, bias=family, backend="sdpa", batch_first=False)
        other.load_state_dict(layer.state_dict())


@pytest.mark.parametrize(("family", "backend"), WAYS)
def test_layer_by_every_backend(family, backend):
    torch.manual_seed(0)
    layer = IndirectAttention(16, 2, bias=family, bias_frequencies=2, offset_scale=3.0, dtype=torch.float64)
    query, context, content = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 9, 16)
    inputs = [x.double() for x in (query, context, content)]
    hidden = torch.zeros(2, 9, dtype=torch.bool)
    hidden[0, 6:] = True
    centres = 2 * torch.arange(5).double() + torch.randn(2, 5).double()
    expected = layer(*inputs, centres, key_padding_mask=hidden, need_weights=True)
    layer.backend = backend
    found = layer(*inputs, centres, key_padding_mask=hidden)
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.centres, expected.centres)


@pytest.mark.parametrize("backend", ["auto", "folded", "blocked", "sdpa", "oracle"])
def test_columns_inside_the_head(backend):
    torch.manual_seed(0)
    layer = IndirectAttention(16, 2, bias="gaussian", bias_columns="inside", backend=backend, dtype=torch.float64)
    assert layer.q_proj.out_features == layer.k_proj.out_features == 2 * (8 - 2)
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    expected = layer(x, x, x, need_weights=True)
    torch.testing.assert_close(layer(x, x, x).output, expected.output)
    with pytest.raises(ValueError, match="separable bias narrower"):
        IndirectAttention(16, 2, bias="fourier", bias_columns="inside")
    with pytest.raises(ValueError, match="separable bias narrower"):
        IndirectAttention(16, 2, bias="mlp", bias_columns="inside")


@pytest.mark.parametrize("backend", ["auto", "folded", "blocked", "sdpa", "oracle"])
def test_boxes_over_a_grid(backend):
    torch.manual_seed(0)
    grid = (3, 4)
    layer = IndirectAttention(16, 2, bias=BoxBias(2, grid, 5, 2.0).double(), backend=backend, dtype=torch.float64)
    image = torch.randn(2, 12, 16, dtype=torch.float64)
    first = layer(image[:, :5], image, image)
    assert first.centres.shape == (2, 5, 4)
    torch.testing.assert_close(first.centres[0, 4], torch.tensor([0.0, 1.0, 1.0, 1.0]).double())
    with torch.no_grad():
        layer.centre_update.step.weight.normal_()
    boxes = first.centres + torch.randn(2, 5, 4).double()
    second = layer(image[:, :5], image, image, boxes)
    expected = layer(image[:, :5], image, image, boxes, need_weights=True)
    torch.testing.assert_close(second.output, expected.output)
    # By hand, for one query and one cell: x = 3, y = 2 is value 11.
    x, y, width, height = boxes[1, 3]
    sides = torch.stack([x - width / 2 - 3, y - height / 2 - 2, x + width / 2 - 3, y + height / 2 - 2])
    torch.testing.assert_close(expected.bias[1, :, 3, 11], layer.bias(sides))
    with pytest.raises(ValueError, match="grid of 3 x 4"):
        layer(image[:, :5], image[:, :11], image[:, :11], boxes)


def test_a_family_by_import_path():
    layer = IndirectAttention(16, 2, bias="indattn.attention.bias.GaussianBias")
    assert isinstance(layer.bias, GaussianBias)
    for path in ("nothing.at.all", "indattn.attention.bias.Nothing", "torch.nn.Linear", "gauss"):
        with pytest.raises(ValueError, match="import path of a PositionBias"):
            IndirectAttention(16, 2, bias=path)


@pytest.mark.parametrize(("family", "backend"), [way for way in WAYS if way != ("gaussian", "folded")])
def test_autocast(family, backend):
    torch.manual_seed(0)
    layer = IndirectAttention(32, 2, bias=family, offset_scale=3.0, backend=backend)
    for n in (20, 140):
        x = torch.randn(2, n, 32)
        centres = (torch.arange(n) + torch.randn(2, n)).requires_grad_()
        expected = layer(x, x, x, centres)
        (grad,) = torch.autograd.grad(expected.output.square().sum(), centres)
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x, x, x, centres)
            inside = torch.autograd.grad(found.output.float().square().sum(), centres, retain_graph=True)[0]
        assert found.output.dtype == torch.bfloat16
        assert found.centres.dtype == torch.float32  # positions of long contents do not fit into 8 bits
        scale = expected.output.abs().max()
        assert (found.output - expected.output).abs().max() < 0.03 * scale
        (coarse,) = torch.autograd.grad(found.output.float().square().sum(), centres)
        assert (coarse - grad).norm() < 0.1 * grad.norm()
        assert (inside - grad).norm() < 0.1 * grad.norm()


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(("family", "backend"), [*[w for w in WAYS if w != ("gaussian", "folded")], ("mlp", "sdpa")])
def test_positions_of_long_contents_in_half_precision(family, backend, need_weights):
    torch.manual_seed(0)
    layer = IndirectAttention(16, 2, bias=family, offset_scale=3.0, backend=backend)
    x = torch.randn(1, 600, 16)
    expected = layer(x, x, x).output
    limit = 0.03 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x, x, x, need_weights=need_weights)
    assert (found.output - expected).abs().max() < limit
    layer = layer.to(torch.bfloat16)
    found = layer(x.bfloat16(), x.bfloat16(), x.bfloat16(), need_weights=need_weights)
    expected = copy.deepcopy(layer).float()(x, x, x).output  # rounding its parameters is another matter
    assert (found.output - expected).abs().max() < limit
    found.output.float().sum().backward()
    assert layer.q_proj.weight.grad.isfinite().all()


def test_a_bias_of_other_heads_is_refused():
    with pytest.raises(ValueError, match="the bias has 1 heads, the layer 4"):
        IndirectAttention(16, 4, bias=MLPBias(1))
    assert IndirectAttention(16, 4, bias=MLPBias(4, offset_scale=7.0)).centre_update.scale == 7.0


def test_more_queries_than_values_when_they_have_centres():
    layer = IndirectAttention(16, 2)
    query, content = torch.randn(1, 9, 16), torch.randn(1, 5, 16)
    assert layer(query, content, content, torch.rand(1, 9) * 5).output.shape == (1, 9, 16)
    with pytest.raises(ValueError, match="9 queries for 5 values"):
        layer(query, content, content)


@pytest.mark.parametrize("family", ["none", "mlp", "gaussian", "fourier"])
def test_layer_exports_for_any_length(family):
    torch.manual_seed(0)
    layer = IndirectAttention(16, 2, bias=family, dtype=torch.float64).eval()
    x, longer = torch.randn(2, 9, 16, dtype=torch.float64), torch.randn(2, 150, 16, dtype=torch.float64)
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = {name: {1: length} for name in ("query", "context", "content", "centres")}
    exported = torch.export.export(layer, (x, x, x, torch.arange(9).expand(2, 9).double()), dynamic_shapes=shapes)
    centres = torch.arange(150).double() + torch.randn(2, 150).double()
    torch.testing.assert_close(
        exported.module()(longer, longer, longer, centres)[0], layer(longer, longer, longer, centres).output
    )


@pytest.mark.parametrize("family", ["none", "mlp", "gaussian", "fourier"])
def test_layer_compiles_and_exports(family):
    torch.manual_seed(0)
    layer = IndirectAttention(16, 2, bias=family, dtype=torch.float64).eval()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    centres = torch.arange(9).double() + torch.randn(2, 9).double()
    expected = layer(x, x, x, centres)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, x, x, centres).output, expected.output)
    torch.testing.assert_close(compiled(x, x, x).output, layer(x, x, x).output)
    exported = torch.export.export(layer, (x, x, x, centres))
    torch.testing.assert_close(exported.module()(x, x, x, centres)[0], expected.output)
