"""`indattn data`: list, prepare, check."""

from __future__ import annotations

import csv
import io
import json

import pytest
from PIL import Image

from indattn import corpora
from indattn.data.speech.load import SPEECH


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def birds(tmp_path):
    folder = tmp_path / "my birds"
    folder.mkdir()
    rows = ["image,caption,split,group,source"]
    for name, split in (("a", "train"), ("b", "train"), ("c", "val"), ("d", "test")):
        Image.new("RGB", (5, 4), "red").save(folder / f"{name}.png")
        rows += [f"{name}.png,A {name}.,{split},{split},{name}", f"{name}.png,One more.,{split},{split},{name}"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def test_the_corpora_there_are(command, cache):
    code, out, err = command("data", "format=json")
    assert (code, err) == (0, "")
    emoji, stamps, *speech = json.loads(out)
    assert emoji["pictures"] == 4 * emoji["texts"] > 6000
    assert emoji["train"] + emoji["validation"] + emoji["test"] == emoji["texts"]
    assert emoji["state"] == "shipped"
    assert "MIT" in emoji["licence"]
    assert stamps["state"] == "to get: indattn data prepare tuxpaint"
    assert stamps["pictures"] is None
    assert stamps["folder"] == str(cache / "tuxpaint")
    assert [row["corpus"] for row in speech] == list(SPEECH)
    assert all(row["state"].startswith("to ") for row in speech)
    assert not cache.exists()
    (cache / "tuxpaint").mkdir(parents=True)
    assert "damaged: indattn data prepare tuxpaint force=true" in command("data")[1]


def test_preparing_once_and_anew(command, cache, monkeypatch):
    asked = []

    def prepare(file, progress):
        asked.append((file, progress))
        folder = cache / "tuxpaint"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(folder / "a.png")
        (folder / "captions.csv").write_text("image,caption,split\na.png,A.,test\n")
        return folder

    monkeypatch.setattr(corpora, "prepare", prepare)
    code, out, _ = command("data", "prepare", "tuxpaint", "file=some.deb")
    assert code == 0
    assert "1 pictures with captions" in out
    assert "force=true" in command("data", "prepare", "tuxpaint")[1]
    assert asked == [("some.deb", False)]
    command("data", "prepare", "tuxpaint", "force=true", "progress=true")
    assert asked[1:] == [(None, True)]
    assert "prepared" in command("data")[1]
    assert "nothing to prepare" in command("data", "prepare", "emoji")[1]


def test_human_speech_is_got_once_then_made_then_checked(command, cache, monkeypatch):
    asked = []

    def prepare_clips(file, progress):
        asked.append(file)
        (cache / "human").mkdir(parents=True, exist_ok=True)
        return cache / "human"

    monkeypatch.setattr(corpora, "prepare_clips", prepare_clips)
    monkeypatch.setattr(corpora, "load_clips", lambda: ["one", "two"])
    monkeypatch.setattr(corpora, "print_speech", lambda make: print("made"))
    assert command("data", "prepare", "human", "file=some.deb")[1].endswith(
        ": 2 recordings with captions; see README.txt in it\nmade\n"
    )
    out = command("data", "prepare", "human")[1]
    assert "there already (force=true" in out
    assert out.endswith("made\n")
    command("data", "prepare", "human", "force=true")
    assert asked == ["some.deb", None]
    rows = [{"places": "a", "AUC": 0.5}, {"places": "b", "median": 1.0}]
    monkeypatch.setattr("indattn.data.speech.leaks.check", lambda progress: rows)
    found = json.loads(command("data", "check", "human", "format=json")[1])
    assert found == [{"places": "a", "AUC": 0.5, "median": None}, {"places": "b", "AUC": None, "median": 1.0}]


def test_checking_one_s_own(command, birds):
    code, out, err = command("data", "check", str(birds), "format=csv")
    assert (code, err) == (0, "")
    rows = {row.pop("split"): [int(cell) for cell in row.values()] for row in csv.DictReader(io.StringIO(out))}
    assert rows == {"train": [2, 2, 4, 1, 2], "validation": [1, 1, 2, 1, 1], "test": [1, 1, 2, 1, 1]}
    assert "every picture can be read" in command("data", "check", "my birds/captions.csv", "progress=true")[1]


def test_checking_pictures_that_lie_elsewhere(command, birds, tmp_path):
    table = (birds / "captions.csv").rename(tmp_path / "captions.csv")
    code, _, err = command("data", "check", str(table))
    assert code == 2
    assert "row 2: no picture" in err
    assert command("data", "check", str(table), "images=my birds")[0] == 0


def test_a_picture_that_cannot_be_read(command, birds):
    (birds / "c.png").write_bytes(b"damaged")
    code, out, err = command("data", "check", str(birds))
    assert (code, out) == (2, "")
    assert "captions.csv: row 6: cannot read" in err
    assert len(err.splitlines()) == 1


def test_splits_that_may_be_empty(command, birds):
    (birds / "captions.csv").write_text("image,caption,split\na.png,A.,test\n")
    code, _, err = command("data", "check", str(birds))
    assert code == 2
    assert "no picture in split 'train'" in err
    assert command("data", "check", str(birds), "splits=[test]")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chekc", "x"], "did you mean 'check'"),
        (["check"], "takes one path, got 0"),
        (["check", "a", "b"], "takes one path, got 2"),
        (["check", "nowhere"], "nowhere: no such file or folder"),
        (["check", "emoji", "splits=[tset]"], "did you mean 'test'"),
        (["prepare"], "takes one corpus, got 0"),
        (["prepare", "tuxpiant"], "did you mean 'tuxpaint'"),
        (["prepare", "tuxpaint", "file=nowhere.deb"], "nowhere.deb: no such file"),
        (["prepare", "humna"], "did you mean 'human'"),
        (["prepare", "human", "file=nowhere.deb"], "nowhere.deb: no such file"),
        (["check", "human"], "indattn data prepare human gets it"),
        (["progress=7"], "progress=7: must be"),
        (["format=xml"], "format=xml"),
        (["imagse=x"], "did you mean 'images'"),
    ],
)
def test_bad_input_gets_one_line(command, words, said):
    code, out, err = command("data", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
