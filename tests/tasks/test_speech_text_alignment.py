"""The alignment task: targets, decoding of perfect scores, what drift may take from where, a run from end to end."""

import json

import numpy as np
import pytest
import torch
from speeches import speech

from indattn.errors import UserError
from indattn.misalignment import Drift
from indattn.models.alignment import Aligned
from indattn.runs import find_runs
from indattn.tasks.speech_text_alignment import SpeechTextAlignment, _labelled, _pointed
from indattn.tasks.utterances import as_batch

CORPUS = speech(splits=(("train", 20), ("validation", 6), ("test", 6)))
TINY = ["model.width=16", "model.heads=2", "model.layers=2", "model.ffn=16", "model.bias_hidden=8", "device=cpu"]


@pytest.fixture
def corpus(monkeypatch):
    monkeypatch.setattr(SpeechTextAlignment, "speech", CORPUS)
    return CORPUS


def batch_of(task, noise=0.7, rows=range(6), seed=0):
    drift = Drift(noise=noise, words=0.5, lead=0.1)
    return as_batch(task.draw(np.asarray(list(rows)), drift, torch.Generator().manual_seed(seed)))


def spans_of(batch):
    return batch["spans"].nan_to_num(nan=3.0)


def test_true_spans_have_no_error(corpus):
    task = SpeechTextAlignment()
    batch = batch_of(task)
    found = task.decode(Aligned(spans=[spans_of(batch)]), batch)
    scores = task.scored(found, batch)
    assert scores.accuracy == 1
    assert scores.more["start_mean_ms"] == pytest.approx(0, abs=1e-3)
    assert scores.more["end_median_ms"] == pytest.approx(0, abs=1e-3)
    assert scores.more["frame_accuracy"] == 1
    assert len(scores.per_example["start"]) == int((~batch["word_spans"][..., 0].isnan()).sum())


def test_spans_that_are_late_are_late_by_as_much(corpus):
    task = SpeechTextAlignment()
    batch = batch_of(task)
    scores = task.scored(task.decode(Aligned(spans=[spans_of(batch) + 6]), batch), batch)
    assert scores.accuracy == 0
    assert scores.more["start_median_ms"] == pytest.approx(60, abs=1e-3)
    assert set(scores.per_example["end"]) == {60.0}


@pytest.mark.parametrize("formulation", ["pointer", "frames"])
def test_perfect_scores_are_decoded_into_the_true_times(corpus, formulation):
    task = SpeechTextAlignment(formulation=formulation)
    batch = batch_of(task, noise=0.4)
    frames = batch["frames"].shape[1]
    if formulation == "pointer":
        made = []
        for edge in range(2):
            target = _pointed(batch, edge, frames)
            scores = torch.zeros(*target.shape, frames + 1)
            made.append(scores.scatter(2, target.clamp(min=0).unsqueeze(-1), 20.0))
        aligned = Aligned(starts=made[0], ends=made[1])
    else:
        label = _labelled(batch, frames).clamp(min=0)
        scores = torch.full((*label.shape, batch["spans"].shape[1] + 1), -10.0)
        aligned = Aligned(frames=scores.scatter(2, label.unsqueeze(-1), -0.01))
    found = task.decode(aligned, batch)
    true = batch["word_spans"].numpy()
    assert (np.isnan(found) == np.isnan(true)).all()
    assert np.nanmax(np.abs(found - true)) <= 0.51


def test_targets_are_the_frames_of_the_spans(corpus):
    batch = batch_of(SpeechTextAlignment())
    frames = batch["frames"].shape[1]
    starts, labels = _pointed(batch, 0, frames), _labelled(batch, frames)
    for k in range(len(starts)):
        for token in range(starts.shape[1]):
            start, end = batch["spans"][k, token].tolist()
            if not batch["token_there"][k, token]:
                assert starts[k, token] == -1
            elif not batch["said"][k, token]:
                assert starts[k, token] == frames
            else:
                assert abs(starts[k, token] - start) <= 0.5
            own = [t for t in range(int(batch["lengths"][k])) if start <= t + 0.5 < end]
            assert (labels[k] == token).nonzero().flatten().tolist() == own
        assert (labels[k, int(batch["lengths"][k]) :] == -1).all()


def test_other_speech_and_other_words_are_of_the_same_split_and_speech_of_the_same_voice(corpus):
    neighbours = SpeechTextAlignment()._neighbours
    rows = np.arange(len(corpus))
    utterance = np.repeat(rows, np.diff(corpus.segment_starts))
    for share in (0.0, 0.31, 0.77, 0.999999):
        others = neighbours.other_utterance(rows, np.full(len(rows), share))
        assert (others != rows).all()
        assert (corpus.voices[others] == corpus.voices[rows]).all()
        assert (corpus.splits[others] == corpus.splits[rows]).all()
        words = neighbours.other_words(rows, np.full((len(rows), 3), share))
        assert (corpus.splits[utterance[words]] == corpus.splits[rows][:, None]).all()


def test_a_voice_with_one_utterance_leads_in_with_itself(monkeypatch):
    monkeypatch.setattr(SpeechTextAlignment, "speech", speech(splits=(("train", 1),)))
    assert SpeechTextAlignment()._neighbours.other_utterance(np.array([0]), np.array([0.9])).tolist() == [0]


def test_batches_depend_on_seed_and_step_alone_and_an_epoch_has_each_utterance_once(corpus):
    task = SpeechTextAlignment(pool=2)
    first, second = (task.training_data(Drift(noise=0.5), 4, 3) for _ in range(2))
    seen = [first.batch(step) for step in range(5)]
    rows = np.concatenate([batch["rows"] for batch in seen])
    assert sorted(rows) == corpus.rows("train").tolist()
    late = second.batch(4)
    assert all(torch.equal(late[key], seen[4][key]) or late[key].isnan().any() for key in late)
    np.testing.assert_array_equal(late["spans"], seen[4]["spans"])
    other = task.training_data(Drift(noise=0.5), 4, 4).batch(4)
    assert other["rows"].tolist() != late["rows"].tolist()


def test_splits_are_fixed_and_displaced_by_the_level(corpus):
    task = SpeechTextAlignment()
    once, again = (task.split("test", Drift(noise=0.5)) for _ in range(2))
    assert torch.equal(once["frames"], again["frames"])
    assert not torch.equal(once["lengths"], task.split("test", Drift(noise=0.5), seed=1)["lengths"])
    assert once["rows"].tolist() == corpus.rows("test").tolist()
    still = task.split("test", Drift(noise=0.0))
    assert still["lengths"].tolist() == np.diff(corpus.frame_starts)[corpus.rows("test")].tolist()


def test_drift_takes_the_same_draws_at_every_level():
    counts = {"word_counts": torch.tensor([3, 5]), "parts": torch.tensor(5)}
    drawn = [Drift(noise=x).apply(counts, None, torch.Generator().manual_seed(0)) for x in (0.0, 0.5, 1.0)]
    none, half, full = drawn
    assert (none["lead"] == 0).all()
    assert (none["tempo"] == 1).all()
    assert not none["left_out"].any()
    assert not none["put_in"].any()
    torch.testing.assert_close(half["lead"] * 2, full["lead"])
    torch.testing.assert_close(half["tempo"] ** 2, full["tempo"])
    assert (half["left_out"] <= full["left_out"]).all()
    assert torch.equal(half["strangers"], full["strangers"])


def test_a_word_is_left_in_every_transcript():
    counts = {"word_counts": torch.tensor([1, 2, 4]), "parts": torch.tensor(5)}
    drawn = Drift(noise=1.0, words=1.0).apply(counts, None, torch.Generator().manual_seed(0))
    there = torch.arange(4) < counts["word_counts"].unsqueeze(1)
    assert ((~drawn["left_out"]) & there).any(1).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"formulation": "centre"}, "task.formulation=centre: must be centres, pointer, frames"),
        ({"pool": 0}, "task.pool=0: must be at least 1"),
    ],
)
def test_what_a_task_cannot_be(options, line):
    with pytest.raises(UserError, match=line):
        SpeechTextAlignment(**options)


@pytest.mark.parametrize("values", [{"lead": -1}, {"stretch": 0.5}, {"stretch": 5}, {"words": 1.5}])
def test_what_drift_cannot_be(values):
    with pytest.raises(UserError, match=f"misalignment.{next(iter(values))}="):
        Drift(**values)


def test_more_in_a_batch_than_there_are_utterances(corpus):
    with pytest.raises(UserError, match="there are 20 training utterances"):
        SpeechTextAlignment().training_data(Drift(), 21, 0)


@pytest.mark.parametrize("formulation", ["centres", "pointer", "frames"])
def test_a_run_from_end_to_end(corpus, command, tmp_path, formulation):
    code, out, _ = command(
        "train",
        "task=speech_text_alignment",
        f"task.formulation={formulation}",
        "model=cross_moving",
        "noise=0.5",
        "training.steps=3",
        "training.batch_size=4",
        "figures=false",
        *TINY,
    )
    assert code == 0
    assert "word starts: median" in out
    (path,) = tmp_path.rglob("result.json")
    result = json.loads(path.read_text())
    assert result["metric"] == "word starts within 50 ms"
    assert result["corpus"]["fingerprint"] == corpus.fingerprint
    assert len(result["per_example"]["start"]) == len(result["per_example"]["utterance"])
    with np.load(path.parent / "recording.npz") as recorded:
        assert recorded["layer_spans"].shape[0] == 3
        assert recorded["span_bias"].shape == (2, 2, len(recorded["span_offsets"]))
        split = SpeechTextAlignment().split("test", Drift(noise=0.5))
        shown = np.linspace(0, len(split["lengths"]) - 1, 4).astype(int)
        for k, row in enumerate(shown):
            words = split["words"][row][split["words"][row] >= 0].numpy()
            assert recorded["words"][k][: len(words)].tolist() == corpus.segments[words].tolist()
            np.testing.assert_array_equal(
                recorded["word_spans"][k, : len(words)], split["word_spans"][row, : len(words)]
            )


def test_a_run_is_evaluated_on_another_corpus_at_other_levels(corpus, command, tmp_path):
    steps = ("training.steps=1", "training.batch_size=4", "figures=false")
    assert command("train", "task=speech_text_alignment", *steps, *TINY)[0] == 0
    (run,) = (path.parent for path in tmp_path.rglob("result.json"))
    code, out, _ = command("evaluate", str(run), "data=human", "noise=[0,0.5]", "format=csv")
    assert code == 0
    lines = out.splitlines()
    assert "start_median_ms" in lines[0]
    assert len(lines) == 3
    code, _, error = command("evaluate", str(run), "data=human", "images=photos")
    assert code == 2
    assert "images=photos: the corpora of task speech_text_alignment have no pictures" in error


def test_less_is_left_out_the_smaller_skip(corpus, command, tmp_path):
    arguments = ["task=speech_text_alignment", "task.formulation=pointer", *TINY, "training.steps=2"]
    arguments += ["training.batch_size=4", "figures=false", f"results_dir={tmp_path}"]
    assert command("train", *arguments)[0] == 0
    (run,) = find_runs(tmp_path)
    code, out, _ = command("evaluate", str(run.path), "noise=0", "skip=[-1000,1000,null]", "format=json")
    assert code == 0
    assert [row["skip"] for row in json.loads(out)] == [-1000, 1000, None]
    found = {one.get("skip"): one for one in run.evaluations()}
    assert len(found) == 3
    assert None not in found[-1000]["per_example"]["start"]
    assert set(found[1000]["per_example"]["start"]) == {None}
    assert command("train", *[a for a in arguments if "formulation" not in a])[0] == 0
    other = next(one for one in find_runs(tmp_path) if one.config().task.formulation == "centres")
    code, _, error = command("evaluate", str(other.path), "skip=-3")
    assert (code, error.count("\n")) == (2, 1)
    assert "leaves out no words" in error
