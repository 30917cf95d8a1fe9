"""Models of the alignment: padding, batches, and that nothing but the recording's loudness is left out."""

import pytest
import torch
from speeches import speech
from torch.testing import assert_close

from indattn.build import build_misalignment, build_model, build_task
from indattn.errors import UserError
from indattn.models.matching import count_parameters
from indattn.tasks.speech_text_alignment import SpeechTextAlignment
from indattn.tasks.utterances import as_batch, cut

MODELS = ["standard", "indirect", "cross", "cross_moving", "cross_expected"]
MODELS += ["indirect_expected", "indirect_expected_carried"]
SMALL = ["model.width=16", "model.heads=2", "model.layers=2", "model.ffn=16", "model.bias_hidden=8"]


@pytest.fixture
def made(compose, monkeypatch):
    """A model and its task over made-up speech, and a displaced batch of the training split."""
    corpus = speech()
    monkeypatch.setattr(SpeechTextAlignment, "speech", corpus)

    def make(*overrides, rows=range(6), noise=0.5):
        config = compose("task=speech_text_alignment", f"noise={noise}", "device=cpu", *SMALL, *overrides)
        task = build_task(config)
        torch.manual_seed(0)
        model = build_model(config, task).double().eval()
        for parameter in model.refine.parameters() if hasattr(model, "refine") else ():
            torch.nn.init.normal_(parameter, std=0.3)  # else no span moves
        examples = task.draw(torch.tensor(list(rows)).numpy(), build_misalignment(config, task), torch.Generator())
        return model, task, as_batch(examples)

    return make


@pytest.mark.parametrize("model", [*MODELS, "phone_classifier"])
@pytest.mark.parametrize("formulation", ["centres", "pointer", "frames"])
def test_a_batch_is_its_examples_one_by_one(made, model, formulation):
    if model == "phone_classifier" and formulation != "frames":
        with pytest.raises(UserError, match=r"use task\.formulation=frames"):
            made(f"model={model}", f"task.formulation={formulation}")
        return
    network, _, batch = made(f"model={model}", f"task.formulation={formulation}")
    with torch.no_grad():
        together, _ = network(batch)
        for k in range(len(batch["lengths"])):
            one = cut({key: value[k : k + 1] for key, value in batch.items()})
            alone, _ = network(one)
            tokens, frames = one["token_there"].shape[1], int(one["lengths"])
            for spans, own in zip(together.spans, alone.spans, strict=True):
                assert_close(spans[k, :tokens], own[0])
            if formulation == "pointer":
                for all_, own in ((together.starts, alone.starts), (together.ends, alone.ends)):
                    assert_close(all_[k, :tokens, :frames], own[0, :, :frames])
                    assert_close(all_[k, :tokens, -1], own[0, :, -1])
                    assert torch.isinf(all_[k, :tokens, frames:-1]).all()
            elif formulation == "frames":
                assert_close(together.frames[k, :frames, :tokens], alone.frames[0, :frames, :tokens])
                assert_close(together.frames[k, :frames, -1], alone.frames[0, :frames, -1])


@pytest.mark.parametrize("model", MODELS)
def test_padding_and_what_is_behind_an_end_change_nothing(made, model):
    network, _, batch = made(f"model={model}")
    changed = {key: value.clone() for key, value in batch.items()}
    behind = torch.arange(batch["frames"].shape[1]) >= batch["lengths"].unsqueeze(1)
    changed["frames"][behind] = 255
    changed["tokens"][~batch["token_there"]] = 7
    with torch.no_grad():
        there = batch["token_there"]
        assert_close(network(batch)[0].spans[-1][there], network(changed)[0].spans[-1][there])


@pytest.mark.parametrize("model", MODELS)
def test_how_loud_a_recording_is_changes_nothing(made, model):
    network, _, batch = made(f"model={model}")
    louder = {**batch, "frames": batch["frames"] + 40}
    with torch.no_grad():
        assert_close(network(batch)[0].spans[-1], network(louder)[0].spans[-1])


def test_spans_start_where_an_even_spread_has_the_tokens(made):
    network, _, batch = made()
    for refine in network.refine:
        torch.nn.init.zeros_(refine.step.weight)
        torch.nn.init.zeros_(refine.step.bias)
    spans = network(batch)[0].spans[-1]
    for k, there in enumerate(batch["token_there"]):
        edges = torch.linspace(0, float(batch["lengths"][k]), int(there.sum()) + 1)
        assert_close(spans[k, there].float(), torch.stack([edges[:-1], edges[1:]], 1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("moving", ["cross_moving", "cross_expected", "indirect"])
def test_with_a_bias_the_centres_steer_what_is_read_and_without_they_do_not(made, moving):
    for name, steered in ((moving, True), ({"indirect": "standard"}.get(moving, "cross"), False)):
        network, _, batch = made(f"model={name}", "model.layers=3")
        with torch.no_grad():
            before = network(batch)[1].states
            torch.nn.init.constant_(network.refine[0].step.bias, 4.0)
            after = network(batch)[1].states
        assert torch.allclose(before, after) is not steered


def test_all_models_have_as_many_parameters(made):
    counts = [count_parameters(made(f"model={model}", "model.width=32")[0]) for model in MODELS]
    assert max(counts) < 1.02 * min(counts)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.queries=3"], "the queries are the transcript's tokens"),
        (["model.learned_queries=false"], "the queries are the transcript's tokens"),
        (["model.centre_update=none"], "centres are what is predicted; use additive"),
        (["model=cross", "model.bias=mlp"], "model=cross_moving has one"),
        (["model=cross_moving", "model.bias=none"], "needs one, as mlp"),
        (["model=fusion"], "model=fusion: not for task=speech_text_alignment"),
        (["model=dual"], "not for task=speech_text_alignment"),
    ],
)
def test_what_no_model_can_be(made, overrides, line):
    with pytest.raises(UserError, match=line):
        made(*overrides)


@pytest.mark.parametrize("formulation", ["centres", "pointer", "frames"])
@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_that_is_read_learns(made, model, formulation):
    network, task, batch = made(f"model={model}", f"task.formulation={formulation}")
    task.loss(network(batch)[0], batch).backward()
    still = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not [name for name in still if "bias.second.bias" not in name]
