"""Figures of spans through the layers, of really trained runs on made-up speech."""

import functools

import numpy as np
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from speeches import speech

from indattn import figures
from indattn.config import configs_dir
from indattn.plot import alignment_pages
from indattn.plot.recorded import run_figures
from indattn.runs import find_runs
from indattn.tasks.speech_text_alignment import SpeechTextAlignment
from indattn.training import train

TASK = "speech_text_alignment"


@pytest.fixture
def quick(monkeypatch):
    """Figures as PNG alone."""
    monkeypatch.setattr(figures, "save", functools.partial(figures.save, formats=("png",)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each model that has spans, really trained, of made-up speech."""
    results, patch = tmp_path_factory.mktemp("trained"), pytest.MonkeyPatch()
    patch.setattr(SpeechTextAlignment, "speech", speech())
    small = ["model.width=8", "model.heads=2", "model.layers=2", "model.ffn=8", "model.bias_hidden=4", "device=cpu"]
    small += ["training.steps=2", "training.evaluate_every=1", "training.batch_size=4", "noise=1"]
    for model in ("indirect", "standard"):
        with initialize_config_dir(str(configs_dir()), version_base="1.3"):
            config = hydra_compose("train", overrides=[f"task={TASK}", f"model={model}", *small])
        config.results_dir = str(results)
        train(config)
    patch.undo()
    return results


def recorded(trained, model):
    run = find_runs(trained, TASK, model)[0]
    with np.load(run.path / "recording.npz") as file:
        return dict(file)


def test_a_word_s_span_is_from_its_first_token_to_its_last(trained):
    kept = recorded(trained, "indirect")
    for example in range(len(kept["lengths"])):
        spans = alignment_pages.word_spans(kept, example)
        count = np.count_nonzero(kept["words"][example] != "")
        assert spans.shape == (3, count, 2)
        for word in range(count):
            tokens = np.flatnonzero((kept["token_words"][example] == word) & kept["token_there"][example])
            ends = kept["layer_spans"][:, example, tokens[[0, -1]], [0, 1]]
            np.testing.assert_array_equal(spans[:, word], ends)


def test_spans_are_drawn_beside_the_bias_where_there_is_one(trained, command, quick):
    code, out, err = command("plot", "spans", "example=3", f"results_dir={trained}")
    assert (code, err) == (0, "")
    assert sorted(line.rpartition("/")[2].partition("-noise")[0] for line in out.splitlines()) == [
        f"spans-{TASK}-indirect",
        f"spans-{TASK}-standard",
    ]
    kept = recorded(trained, "indirect")
    figure = alignment_pages.spans_figure(kept, 0, "title")
    above, below, *biases = figure.axes
    assert len(biases) == 2
    assert above.get_xlim() == below.get_xlim() == (0, pytest.approx(kept["lengths"][0] * 0.01))
    said = ~np.isnan(kept["word_spans"][0, : np.count_nonzero(kept["words"][0] != ""), 0])
    assert len(below.patches) == said.sum()
    assert [box.get_x() for box in below.patches] == pytest.approx(0.01 * kept["word_spans"][0, : len(said), 0][said])
    words = kept["words"][0, : len(said)]
    assert [text.get_text() for text in above.texts] == words[said].tolist()
    assert [text.get_text() for text in below.texts] == words[~said].tolist()
    assert biases[0].lines[0].get_xdata()[[0, -1]] == pytest.approx([-1000, 1000])
    figures.plt.close(figure)
    figure = alignment_pages.spans_figure(recorded(trained, "standard"), 0, "title")
    assert len(figure.axes) == 2
    figures.plt.close(figure)


def test_hertz_are_where_the_filter_bank_has_them(trained):
    """Kaldi's band b of 80 is around the mel frequency (b + 1) / 81 of the way from 20 Hz to 8 kHz."""
    figure = alignment_pages.spans_figure(recorded(trained, "standard"), 0, "title")
    mel = 1127 * np.log1p(np.array([20, 8000, 1000]) / 700)
    bands = mel[0] + (np.arange(80) + 1) * (mel[1] - mel[0]) / 81
    at = dict(zip((t.get_text() for t in figure.axes[0].get_yticklabels()), figure.axes[0].get_yticks(), strict=True))
    assert at["1"] == pytest.approx(np.interp(mel[2], bands, np.arange(80)))
    figures.plt.close(figure)


def test_a_run_s_own_figures(trained, quick):
    run = find_runs(trained, TASK, "indirect")[0]
    run_figures(run)
    assert {path.name for path in (run.path / "figures").glob("*.png")} == {"learning_curve.png", "spans.png"}


def test_an_example_that_is_not_there_is_said_in_one_line(command, trained):
    code, _, err = command("plot", "spans", "example=9", f"results_dir={trained}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "examples 0 to 3" in err
