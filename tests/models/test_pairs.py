"""Models over pairs: all pairs at once are the pairs one by one, and what each control leaves out."""

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from indattn.attention import BoxBias, CentreUpdate, IndirectAttention
from indattn.errors import UserError
from indattn.models.matching import count_parameters, match_parameters
from indattn.models.pair_attention import PairAttention, pair_product
from indattn.models.pairs import Cross, Dual, Fusion, Misaligned
from indattn.models.pairs_expected import Expected

WIDTH = 8
CELLS = 12


class StubTexts(nn.Module):
    def forward(self, batch):
        return batch["text"], batch["text_mask"]


class StubImages(nn.Module):
    def forward(self, batch):
        return batch["image"]


@dataclass
class Side:
    """A task of random features: pictures of 3 x 4 cells."""

    grid: tuple[int, int] = (3, 4)
    widths: tuple[int, int] = (6, 10)
    modules: tuple = field(default=(StubTexts, StubImages))

    def encoders(self):
        return tuple(module() for module in self.modules)


def texts_of(*lengths, seed=0):
    """Texts of some lengths, padded with noise that must not be read."""
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"text": torch.randn(len(lengths), max(lengths), 6, dtype=torch.float64), "text_mask": mask}


def images_of(count, seed=1):
    torch.manual_seed(seed)
    return {"image": torch.randn(count, CELLS, 10, dtype=torch.float64)}


#: What each configuration of configs/model says.
KINDS = {
    "dual": (Dual, {"bias": "none"}),
    "standard": (Misaligned, {"bias": "none"}),
    "indirect": (Misaligned, {}),
    "indirect_tokens": (Misaligned, {"keys": "tokens"}),
    "uniform": (Misaligned, {"attention": "uniform"}),
    "cross": (Cross, {"bias": "none"}),
    "fusion": (Fusion, {"bias": "none"}),
    "fusion with f": (Fusion, {}),
    "expected": (Expected, {}),
    "expected carried": (Expected, {"carried": True, "gate": "closed"}),
}


def build(kind, **options):
    model_class, own = KINDS[kind]
    small = {"layers": 2, "heads": 2, "width": WIDTH, "ffn": 16, "bias_hidden": 4, "offset_scale": 1.0, "queries": 4,
             "self_attention": False, "embedding": 16}  # fmt: skip
    config = model_class.config_class(**{**small, **own, **options})
    config.check()
    torch.manual_seed(2)
    model = model_class(Side(), config).double().eval()
    for module in model.modules():
        if isinstance(module, CentreUpdate):  # it starts at zero, which would move nothing
            nn.init.normal_(module.step.weight, std=0.5)
            nn.init.normal_(module.step.bias, std=0.5)
    return model


def take(batch, *rows):
    return {key: value[list(rows)] for key, value in batch.items()}


def scores(model, texts, images):
    with torch.no_grad():
        return model.score(model.encode_texts(texts), model.encode_images(images))[0]


# Products over pairs -------------------------------------------------------------------------------------------

LEADING = list(itertools.product((False, True), repeat=4))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LEADING), *(st.integers(1, 4) for _ in range(6)), st.integers(0, 2**31))
def test_pair_product_is_the_broadcast_product(there, texts, images, heads, rows, inner, columns, seed):
    generator = torch.Generator().manual_seed(seed)

    def made(of_text, of_image, *rest):
        leading = (texts if of_text else 1, images if of_image else 1)
        return torch.randn(*leading, heads, *rest, generator=generator, dtype=torch.float64)

    a, b = made(*there[:2], rows, inner), made(*there[2:], inner, columns)
    product = pair_product(a, b)
    assert product.shape == (a @ b).shape
    assert_close(product, a @ b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("there", LEADING)
def test_gradient_of_pair_product(there):
    def made(of_text, of_image, *rest):
        leading = (2 if of_text else 1, 3 if of_image else 1)
        return torch.randn(*leading, 2, *rest, dtype=torch.float64, requires_grad=True)

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(pair_product, (made(*there[:2], 2, 3), made(*there[2:], 3, 2)))


# The late block ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_all_pairs_are_the_pairs_one_by_one(kind, self_attention, norm):
    model = build(kind, self_attention=self_attention, norm=norm)
    texts, images = texts_of(3, 1, 7, 5), images_of(3)
    together = scores(model, texts, images)
    assert together.shape == (4, 3)
    assert together.abs().max() <= 1 + 1e-9
    alone = torch.stack([
        torch.cat([scores(model, take(texts, t), take(images, i))[0] for i in range(3)]) for t in range(4)
    ])  # fmt: skip
    assert_close(together, alone, rtol=1e-9, atol=1e-10)
    assert together.std() > 1e-3, "scores that are all alike would compare nothing"


@pytest.mark.parametrize("options", [{"content_queries": False}, {"learned_queries": False}, {"shared_bias": True}])
@pytest.mark.parametrize("kind", ["standard", "indirect", "uniform", "cross", "fusion with f"])
def test_all_pairs_with_other_queries(kind, options):
    model = build(kind, **options)
    if kind == "cross" and "content_queries" in options:
        options = {}
    texts, images = texts_of(3, 1, 7), images_of(4)
    together = scores(model, texts, images)
    for t, i in itertools.product(range(3), range(4)):
        assert_close(together[t, i], scores(model, take(texts, t), take(images, i))[0, 0], rtol=1e-9, atol=1e-10)


def test_the_centres_move_by_text_and_picture():
    model = build("indirect")
    with torch.no_grad():
        _, output = model({**texts_of(3, 1, 7), **images_of(2)}, record=True)
    first, second = output.centres
    assert_close(first, model.boxes)
    assert second.shape == (3, 2, 4, 4)
    assert second.flatten(2).std(0).min() > 0
    assert second.flatten(2).std(1).min() > 0
    # Regions of a 3 x 4 grid in halves: x from -0.5 to 3.5, y from -0.5 to 2.5.
    assert_close(first[0, 0].double(), torch.tensor([[0.5, 0.25, 2, 1.5], [2.5, 0.25, 2, 1.5],
                                                     [0.5, 1.75, 2, 1.5], [2.5, 1.75, 2, 1.5]]).double())  # fmt: skip


@pytest.mark.parametrize("update", ["additive", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_pairs_are_the_literal_attention(bias, update):
    torch.manual_seed(0)
    f = BoxBias(2, (3, 4), 5, 1.5).double() if bias else "none"
    layer = PairAttention(WIDTH, 2, bias=f, centre_update=update).double().eval()
    oracle = IndirectAttention(WIDTH, 2, bias=f, centre_update=update).double().eval()
    if layer.centre_update is not None:
        nn.init.normal_(layer.centre_update.step.weight)
    for parameter in (layer.q_proj.bias, layer.k_proj.bias, layer.v_proj.bias, layer.out_proj.bias):
        nn.init.normal_(parameter)
    oracle.load_state_dict(layer.state_dict())
    query, keys, values = (torch.randn(*shape, WIDTH, dtype=torch.float64) for shape in
                           ((1, 2, 4), (3, 1, CELLS), (1, 2, CELLS)))  # fmt: skip
    centres = 3 * torch.rand(3, 2, 4, 4, dtype=torch.float64) if bias else None
    with torch.no_grad():
        read, moved, weights = layer.pairs(query, keys, values, centres, record=True)
        assert layer.pairs(query, keys, values, centres, record=False)[2] is None
        for t, i in itertools.product(range(3), range(2)):
            own = None if centres is None else centres[t, i : i + 1]
            expected = oracle(query[0, i : i + 1], keys[t], values[0, i : i + 1], own, need_weights=True)
            assert_close(read[t, i], expected.output[0], rtol=1e-10, atol=1e-12)
            assert_close(weights[t, i], expected.weights[0], rtol=1e-10, atol=1e-12)
            if bias:
                assert_close(moved[t, i], expected.centres[0], rtol=1e-10, atol=1e-12)
    if not bias:
        assert moved is None


@pytest.mark.parametrize("kind", ["indirect", "standard", "cross", "fusion"])
def test_training_reaches_every_parameter(kind):
    model = build(kind).train()
    logits, _ = model({**texts_of(6, 5, 7), **images_of(3)})
    (-logits.diagonal() + logits.logsumexp(1)).mean().backward()
    for name, parameter in model.named_parameters():
        # A number added to all scores of a row, which the softmax takes away; keys that cross-attention does not read.
        if name.endswith(("k_proj.bias", "bias.x.1.bias", "bias.y.1.bias")):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


# Texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_texts_permute_the_rows(kind):
    model = build(kind)
    texts, images = texts_of(3, 1, 7, 5), images_of(3)
    order = [2, 0, 3, 1]
    assert_close(scores(model, take(texts, *order), images), scores(model, texts, images)[order])
    assert_close(scores(model, texts, take(images, 2, 0, 1)), scores(model, texts, images)[:, [2, 0, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_not_read(kind):
    model = build(kind)
    texts, images = texts_of(3, 1, 14), images_of(3)
    short = {key: value[:2, :3] for key, value in texts.items()}
    assert_close(scores(model, short, images), scores(model, texts, images)[:2])
    texts["text"][~texts["text_mask"]] = 1e3
    assert_close(scores(model, short, images), scores(model, texts, images)[:2])


def keys_of(model, tokens, mask, monkeypatch):
    """Numbers of the tokens that lie on the keys; -1 is padding."""
    monkeypatch.setattr(model, "context_map", nn.Identity())
    monkeypatch.setattr(model, "_features", lambda x: x)
    monkeypatch.setattr("indattn.models.pairs.F.layer_norm", lambda x, shape: x)
    with torch.no_grad():
        model.context_positions.zero_()
        if model.padding is not None:
            model.padding.fill_(-1)
        return model._keys(tokens, mask)[..., 0].long()


@pytest.mark.parametrize("length", [1, 2, 5, 11, 12, 13, 30])
def test_spread_covers_every_token_in_order(monkeypatch, length):
    tokens = torch.arange(31).double().expand(1, -1).unsqueeze(-1).expand(-1, -1, WIDTH)
    mask = (torch.arange(31) < length).unsqueeze(0)
    (keys,) = keys_of(build("indirect"), tokens, mask, monkeypatch).tolist()
    assert len(keys) == CELLS
    assert keys == sorted(keys)
    assert keys[0] == 0
    if length <= CELLS:
        assert set(keys) == set(range(length))
        counts = [keys.count(token) for token in range(length)]
        assert max(counts) - min(counts) <= 1
    else:
        assert len(set(keys)) == CELLS
        assert max(keys) < length


@pytest.mark.parametrize("length", [1, 5, 12, 13])
def test_tokens_lie_on_the_keys_of_their_number(monkeypatch, length):
    tokens = torch.arange(13).double().expand(1, -1).unsqueeze(-1).expand(-1, -1, WIDTH)
    mask = (torch.arange(13) < length).unsqueeze(0)
    (keys,) = keys_of(build("indirect_tokens"), tokens, mask, monkeypatch).tolist()
    assert keys == [j if j < length else -1 for j in range(CELLS)]


def test_tokens_that_are_dropped_leave_their_keys_empty(monkeypatch):
    tokens = torch.arange(6).double().expand(1, -1).unsqueeze(-1).expand(-1, -1, WIDTH)
    mask = torch.tensor([[True, False, True, False, False, True]])
    (keys,) = keys_of(build("indirect_tokens"), tokens, mask, monkeypatch).tolist()
    assert keys == [0, -1, 2, -1, -1, 5] + [-1] * 6
    spread = keys_of(build("indirect"), tokens, mask, monkeypatch)[0].tolist()
    assert spread == [0] * 4 + [2] * 4 + [5] * 4


def test_shuffled_keys_are_another_text_s():
    shuffled, own = build("indirect", keys="shuffled"), build("indirect")
    texts = texts_of(3, 1, 7, 5)
    with torch.no_grad():
        one, other = shuffled.encode_texts(texts), own.encode_texts(texts)
    assert_close(one.embedded, other.embedded)
    assert_close(one.keys, other.keys.roll(2, 0))
    with pytest.raises(UserError, match="needs another text"):
        shuffled.encode_texts(texts_of(3))
    for t in range(4):
        assert not torch.allclose(one.keys[t], other.keys[t])
    images = images_of(3)
    assert not torch.allclose(scores(shuffled, texts, images), scores(own, texts, images))


@pytest.mark.parametrize("kind", ["indirect", "standard", "uniform"])
def test_only_uniform_does_not_read_the_keys(kind):
    model, images = build(kind), images_of(3)
    with torch.no_grad():
        texts = model.encode_texts(texts_of(3, 1, 7))
        pictures = model.encode_images(images)
        before = model.score(texts, pictures)[0]
        texts.keys = torch.randn_like(texts.keys)
        after, output = model.score(texts, pictures, record=True)
    if kind == "uniform":
        assert torch.equal(before, after)
        assert all((weights == 1 / CELLS).all() for weights in output.weights)
    else:
        assert not torch.allclose(before, after)


def test_dropout_while_training_leaves_every_text_a_token():
    model = build("indirect", token_dropout=0.95).train()
    for seed in range(5):
        torch.manual_seed(seed)
        assert scores(model, texts_of(1, 2, 9, seed=seed), images_of(2)).isfinite().all()
    texts, images = texts_of(3, 9), images_of(2)
    assert not torch.allclose(scores(model, texts, images), scores(model, texts, images))
    plain = build("indirect", token_dropout=0.0, feature_dropout=0.0).train()
    assert_close(scores(plain, texts, images), scores(plain.eval(), texts, images))


# Sizes and choices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("self_attention", [True, False])
def test_every_model_has_the_reference_s_parameters(self_attention):
    side = Side((7, 7), (384, 1472))
    counts = {}
    for kind, (model_class, own) in KINDS.items():
        config = model_class.config_class(
            layers=2, width=64, ffn=64, bias_hidden=16, self_attention=self_attention, **own
        )
        with torch.device("meta"):
            counts[kind] = count_parameters(model_class(side, match_parameters(model_class, side, config)))
    assert max(counts.values()) / min(counts.values()) <= 1.02, counts


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"keys": "spred"}, ["model.keys='spred'", "'spread'", "'tokens'", "'shuffled'"]),
        ({"attention": "unifrom"}, ["model.attention", "'uniform'"]),
        ({"selection": "small"}, ["model.selection", "'small_loss'"]),
        ({"bias": "gaussian"}, ["model.bias='gaussian'", "'mlp'", "'none'"]),
        ({"feature_dropout": 1.0}, ["model.feature_dropout"]),
        ({"token_dropout": -0.1}, ["model.token_dropout"]),
        ({"temperature": 0.0}, ["model.temperature"]),
        ({"embedding": 0}, ["model.embedding"]),
        ({"queries": 5}, ["model.queries=5", "square"]),
        ({"queries": 16}, ["model.queries=16", "3 x 4"]),
        ({"learned_queries": False, "content_queries": False}, ["no queries are left"]),
    ],
)
def test_choices_that_do_not_exist(options, parts):
    with pytest.raises(UserError) as caught:
        build("indirect", **options)
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_bias_is_one_module(shared):
    model = build("indirect", layers=3, shared_bias=shared)
    assert len({id(layer.attention.bias) for layer in model.layers}) == (1 if shared else 3)
    assert [layer.attention.centre_update is not None for layer in model.layers] == [True, True, False]


@pytest.mark.parametrize(("kind", "word"), [("dual", "dual encoder"), ("cross", "cross-attention")])
def test_models_that_take_no_bias(kind, word):
    with pytest.raises(UserError, match=word):
        build(kind, bias="mlp")
