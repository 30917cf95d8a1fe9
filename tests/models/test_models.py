import pytest
import torch
from families import OTHERS

from indattn.attention import CentreUpdate, MLPBias
from indattn.build import build_misalignment, build_model, build_task
from indattn.config import group_options
from indattn.errors import UserError
from indattn.models.decoder import Decoder, ModelConfig
from indattn.models.matching import count_parameters

#: Indirect attention once more: tests/models/test_assigned.py.
AGAIN = ("assigned",)
MODELS = [name for name in group_options("model") if name[0] != "_" and name not in (*OTHERS, *AGAIN)]
TASKS = [name for name in group_options("task") if name not in ("cross_modal_retrieval", "speech_text_alignment")]
#: Offsets of many units, so that the kinks of f lie among them and every parameter of f has a gradient.
SMALL = ("model.layers=2", "model.heads=2", "model.width=16", "model.bias_hidden=8", "model.match_parameters=false",
         "model.offset_scale=1.0")  # fmt: skip
#: Added to every score of a row, so the softmax takes them away: their gradient is zero but for rounding.
NO_EFFECT = ("k_proj.bias", "attention.bias.second.bias")


@pytest.fixture
def configure(compose):
    def configured(model, task, *overrides):
        # Only groups need Hydra; the rest is set afterwards, so that few compositions serve all tests.
        groups = [override for override in overrides if override.startswith("misalignment=")]
        config = compose(f"model={model}", f"task={task}", *groups)
        config.merge_with_dotlist([override for override in overrides if override not in groups])
        return config

    return configured


@pytest.fixture
def build(configure):
    def built(model, task, *overrides, size=8):
        config = configure(model, task, *SMALL, *overrides)
        built_task = build_task(config)
        torch.manual_seed(0)
        network = build_model(config, built_task)
        misalignment = build_misalignment(config, built_task)
        return network, built_task, built_task.draw(size, torch.Generator().manual_seed(1), misalignment)

    return built


@pytest.fixture
def count(configure):
    def counted(model, task, *overrides):
        config = configure(model, task, *overrides)
        with torch.device("meta"):
            return count_parameters(build_model(config, build_task(config)))

    return counted


def move_centres(model):
    for module in model.modules():
        if isinstance(module, CentreUpdate):
            torch.nn.init.normal_(module.step.weight)


def step(model, task, batch):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    logits, _ = model(batch)
    assert logits.shape == (*batch["targets"].shape, task.classes)
    before = task.loss(logits, batch)
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith(NO_EFFECT):
            assert parameter.grad.abs().max() > 1e-7, name
    optimiser.step()
    after = task.loss(model(batch)[0], batch)
    assert before.isfinite()
    assert after < before


def test_all_models_and_tasks_are_found():
    assert {"indirect", "standard", "cross", "double_cross", "fusion"} <= set(MODELS)
    assert {"synthetic", "sorting", "sequence_retrieval"} <= set(TASKS)
    assert set(OTHERS) <= set(group_options("model"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", OTHERS)
def test_a_model_of_another_family_is_not_for_sequences(configure, model, task):
    config = configure(model, task)
    with pytest.raises(UserError, match=f"^model={model}: not for task={task}$"):
        build_model(config, build_task(config))


def test_models_of_sequences_that_pairs_do_not_have(configure):
    config = configure("double_cross", "cross_modal_retrieval", "task.encoder=scratch")
    with pytest.raises(UserError, match=r"^model=double_cross: not for task=cross_modal_retrieval$"):
        build_model(config, build_task(config))
    for model in ("indirect_gaussian", "indirect_fourier"):
        config = configure(model, "cross_modal_retrieval", "task.encoder=scratch")
        with pytest.raises(UserError, match=r"^model\.bias='\w+': must be 'mlp' or 'none'$"):
            build_model(config, build_task(config))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_one_step(build, model, task):
    step(*build(model, task, "noise=0.5"))


@pytest.mark.parametrize("task", TASKS)
def test_kinds_of_a_task(build, configure, task):
    for kind in build_task(configure("indirect", task)).kinds:
        for model in ("indirect", "cross"):
            network, built_task, batch = build(model, task, f"misalignment={kind}", "noise=0.5")
            loss = built_task.loss(network(batch)[0], batch)
            loss.backward()
            assert loss.isfinite()
            if kind == "additive":
                assert batch["content_noise"].shape == (*batch["content"].shape, 16)
                clean = {key: value for key, value in batch.items() if key != "content_noise"}
                assert not torch.allclose(network(batch)[0], network(clean)[0])


def test_kind_of_another_task(configure):
    config = configure("indirect", "synthetic", "misalignment=corrupt")
    with pytest.raises(UserError, match="shift, shuffle, additive"):
        build_misalignment(config, build_task(config))


@pytest.mark.parametrize("kind", ["corrupt", "additive"])
def test_another_kind_for_a_built_task(configure, kind):
    config = configure("indirect", "sorting")
    misalignment = build_misalignment(config, build_task(config), kind, 0.25)
    assert (misalignment.kind, misalignment.noise) == (kind, 0.25)
    if kind == "additive":
        assert misalignment.width == config.model.width


@pytest.mark.parametrize("self_attention", ["true", "false"])
@pytest.mark.parametrize("task", TASKS)
def test_parameters_match_the_paper_s_model(count, task, self_attention):
    override = f"model.self_attention={self_attention}"
    reference = count("indirect", task, override, "model.match_parameters=false")
    for model in MODELS:
        assert count(model, task, override) == pytest.approx(reference, rel=0.02), model


@pytest.mark.parametrize("override", ["model.shared_bias=true", "model.learned_queries=false", "model.norm=post"])
def test_variants_match_too(count, override):
    reference = count("indirect", "synthetic")
    assert count("indirect", "synthetic", override) == pytest.approx(reference, rel=0.02)


def test_matching_can_be_switched_off(configure, count):
    counts = {}
    for model in MODELS:
        config = configure(model, "synthetic", "model.match_parameters=false")
        with torch.device("meta"):
            network = build_model(config, build_task(config))
        assert network.decoder.layers[0].ffn[0].out_features == 4 * config.model.width
        counts[model] = count_parameters(network)
    shared = counts.pop("indirect_expected_shared")  # its shift is read from the queries' mean, by the same weights
    assert shared == counts["indirect_expected"]
    assert len(set(counts.values())) == len(counts)
    assert count("fusion", "synthetic", "model.match_parameters=false") > 1.02 * count("fusion", "synthetic")


def test_ffn_width_is_kept_without_matching(build):
    network, _, _ = build("indirect", "synthetic", "model.ffn=24")
    assert network.decoder.layers[0].ffn[0].out_features == 24


@pytest.mark.parametrize("model", MODELS)
def test_batch_equals_items_one_by_one(build, model):
    network, _, batch = build(model, "synthetic", "noise=0.5", "model.dropout=0.2", size=4)
    move_centres(network)
    network.eval()
    with torch.no_grad():
        whole, _ = network(batch)
        for item in range(4):
            alone, _ = network({key: value[item : item + 1] for key, value in batch.items()})
            torch.testing.assert_close(alone, whole[item : item + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_recording_changes_nothing(build, model, task):
    network, _, batch = build(model, task, "noise=0.5", "model.layers=3", size=4)
    move_centres(network)
    network.eval()
    with torch.no_grad():
        plain, bare = network(batch)
        recorded, output = network(batch, record=True)
    torch.testing.assert_close(recorded, plain, rtol=1e-4, atol=1e-5)
    assert bare.weights == [None] * 3
    assert len(output.weights) == len(output.biases) == len(output.centres) == 3
    for weights in output.weights:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    if model.startswith("indirect"):
        positions = torch.arange(output.states.shape[1])
        assert (output.centres[0] is None) != ("expected" in model)  # whose keys move them in each layer
        assert all(not torch.allclose(c, positions.expand_as(c).float()) for c in output.centres[1:])
        for bias, weights in zip(output.biases, output.weights, strict=True):
            assert torch.broadcast_shapes(bias.shape, weights.shape) == weights.shape
    else:
        assert output.biases == [None] * 3
        assert output.centres == [None] * 3


@pytest.mark.parametrize("model", MODELS)
def test_post_norm(build, model):
    network, task, batch = build(model, "synthetic", "noise=0.5", "model.norm=post")
    step(network, task, batch)
    _, output = network(batch)
    torch.testing.assert_close(output.states.mean(-1), torch.zeros(output.states.shape[:2]), atol=0.2, rtol=0)
    assert isinstance(network.decoder.final_norm, torch.nn.Identity)


def test_pre_and_post_norm_differ(build):
    outputs = [build("standard", "synthetic", f"model.norm={norm}") for norm in ("pre", "post")]
    (pre, _, batch), (post, _, _) = outputs
    assert not torch.allclose(pre(batch)[0], post(batch)[0])


def test_fewer_queries_than_content(build):
    network, task, batch = build("indirect", "synthetic", "noise=0.5", "model.queries=20")
    assert network.learned_queries.shape == (20, 16)
    step(network, task, batch)
    _, output = network(batch, record=True)
    assert output.states.shape[1] == 20
    assert output.weights[0].shape[-2:] == (20, task.content_length)


def test_more_queries_than_content(build):
    with pytest.raises(UserError, match="to 33"):
        build("indirect", "synthetic", "model.queries=34")


@pytest.mark.parametrize(("task", "queries"), [("synthetic", 15), ("synthetic", 0), ("synthetic", -1), ("sorting", 9)])
def test_fewer_queries_than_outputs(build, task, queries):
    with pytest.raises(UserError, match=r"model\.queries"):
        build("indirect", task, f"model.queries={queries}")


@pytest.mark.parametrize("option", ["learned_queries", "content_queries"])
@pytest.mark.parametrize("model", ["indirect", "standard", "double_cross", "fusion"])
def test_queries_of_one_part(build, model, option):
    both, _, batch = build(model, "synthetic")
    one, task, _ = build(model, "synthetic", f"model.{option}=false", "noise=0.5")
    content = one.content_encoder(batch)
    queries = one.queries(content)
    if option == "learned_queries":
        assert one.learned_queries is None
        assert torch.equal(queries, content)
    else:
        assert torch.equal(queries, one.learned_queries.expand_as(queries))
    torch.testing.assert_close(both.queries(content), both.learned_queries + content)
    step(one, task, batch)


def test_no_queries_left(build):
    with pytest.raises(UserError, match="no queries are left"):
        build("indirect", "synthetic", "model.learned_queries=false", "model.content_queries=false")


@pytest.mark.parametrize(
    "override",
    [
        "model.heads=3",
        "model.norm=rms",
        "model.bias=alibi",
        "model.layers=0",
        "model.dropout=1",
        "model.offset_scale=0",
    ],
)
def test_wrong_choices_are_named(build, override):
    with pytest.raises(UserError, match=override.partition("=")[0]):
        build("indirect", "synthetic", override)


def test_shared_bias_is_one_module(build):
    shared, task, batch = build("indirect", "synthetic", "noise=0.5", "model.shared_bias=true", "model.layers=3")
    own, _, _ = build("indirect", "synthetic", "model.layers=3")
    assert len({id(layer.attention.bias) for layer in shared.decoder.layers}) == 1
    assert len({id(layer.attention.bias) for layer in own.decoder.layers}) == 3
    one = count_parameters(MLPBias(2, 8))
    assert count_parameters(own) - count_parameters(shared) == 2 * one
    step(shared, task, batch)


def test_no_centre_update(build):
    network, task, batch = build("indirect", "synthetic", "noise=0.5", "model.centre_update=none")
    assert not any(isinstance(module, CentreUpdate) for module in network.modules())
    step(network, task, batch)
    assert network(batch)[1].centres == [None, None]


def test_the_last_layer_moves_nothing(build):
    network, _, _ = build("indirect", "synthetic", "model.layers=3")
    assert [layer.attention.centre_update is not None for layer in network.decoder.layers] == [True, True, False]


def test_detached_centres_leave_the_update_without_gradient(build):
    network, task, batch = build("indirect", "synthetic", "noise=0.5", "model.detach_centres=true")
    task.loss(network(batch)[0], batch).backward()
    updates = {n for n, p in network.named_parameters() if "centre_update" in n}
    assert updates
    assert {n for n, p in network.named_parameters() if p.grad is None} == updates


def test_no_self_attention(build):
    network, task, batch = build("indirect", "synthetic", "noise=0.5", "model.self_attention=false")
    assert all(layer.self_attention is None for layer in network.decoder.layers)
    step(network, task, batch)
    # Nothing else lets one query see another.
    torch.manual_seed(0)
    decoder = Decoder(ModelConfig(layers=2, heads=2, width=16, self_attention=False)).eval()
    queries, context, content = (torch.randn(1, 6, 16) for _ in range(3))
    changed = queries.clone()
    changed[:, 3] = torch.randn(16)  # not a constant more: the norm would take it away
    after = decoder(changed, context, content).states.squeeze(0)
    before = decoder(queries, context, content).states.squeeze(0)
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(after[others], before[others])
    assert not torch.allclose(after[3], before[3])


@pytest.mark.parametrize("model", ["indirect", "standard"])
def test_keys_from_the_context_values_from_the_content(build, model):
    network, _, batch = build(model, "sequence_retrieval")
    queries, keys, values = network.roles(batch)
    torch.testing.assert_close(keys, network.context_encoder(batch))
    torch.testing.assert_close(values, network.content_encoder(batch))
    assert queries.shape == keys.shape == values.shape
    biases = [layer.attention.bias for layer in network.decoder.layers]
    assert all(isinstance(b, MLPBias) if model == "indirect" else b is None for b in biases)


@pytest.mark.parametrize(("task", "side"), [("synthetic", "context"), ("sorting", "content")])
def test_cross_takes_queries_from_one_sequence(build, task, side):
    network, _, batch = build("cross", task)
    queries, keys, values = network.roles(batch)
    context = network.context_encoder(batch, padded=False)
    content = network.content_encoder(batch)
    expected, memory = (context, content) if side == "context" else (content, context)
    torch.testing.assert_close(queries, expected)
    torch.testing.assert_close(keys, memory)
    assert keys is values


@pytest.mark.parametrize("model", ["double_cross", "fusion"])
def test_fused_models_read_both_sequences(build, model):
    network, _, batch = build(model, "synthetic")
    _, keys, values = network.roles(batch)
    assert keys is values
    for field in ("context", "content"):
        other = {**batch, field: batch[field].flip(0)}
        assert not torch.allclose(network.roles(other)[1], keys)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_every_model_depends_on_both_sequences(build, model, task):
    network, _, batch = build(model, task)
    logits, _ = network(batch)
    for field in ("context", "content"):
        other = {**batch, field: batch[field].flip(0)}
        assert not torch.allclose(network(other)[0], logits)


def test_layers_prepared_together_train_alike(build, monkeypatch):
    network, task, batch = build("indirect", "sorting")
    move_centres(network)

    def step():
        network.zero_grad()
        logits, _ = network(batch)
        task.loss(logits, batch).backward()
        return logits, {name: p.grad for name, p in network.named_parameters() if not name.endswith(NO_EFFECT)}

    together = step()
    monkeypatch.setattr("indattn.models.decoder.prepare", lambda layers, n: [None] * len(layers))
    torch.testing.assert_close(together, step())
