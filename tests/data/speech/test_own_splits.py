"""Splits of one's own recordings: by folders that say so, else whole voices, the same on every machine."""

from __future__ import annotations

import pytest

from indattn.data.speech.corpus import SPLITS
from indattn.data.speech.own import recordings
from indattn.errors import UserError


def many(root, names):
    for name in names:
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened")
        path.with_suffix(".TextGrid").write_text("not opened")
    return {one.name: one for one in recordings(root)}


def test_voices_are_divided_whole(tmp_path):
    found = many(tmp_path, [f"{speaker}/{k}" for speaker in range(300) for k in range(2)])
    assert all(found[f"{speaker}/0"].split == found[f"{speaker}/1"].split for speaker in range(300))
    shares = [sum(one.split == split for one in found.values()) / 600 for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)
    half = {one.name: one.split for one in recordings(tmp_path, fractions=(0.5, 0.5, 0.0))}
    assert set(half.values()) == {"train", "validation"}
    few = many(tmp_path / "7", ["7/0", "7/1", "8/0", "8/1"])  # others being there or not does not matter
    assert few["7/0"].split == found["7/0"].split


def test_of_one_voice_recordings_are_divided(tmp_path):
    found = many(tmp_path, [f"wavs/{k}" for k in range(100)])
    assert {one.voice for one in found.values()} == {"wavs"}
    assert {one.split for one in found.values()} == set(SPLITS)


def test_train_gives_validation_where_there_is_none(tmp_path):
    found = many(tmp_path, [f"train/{k}/a" for k in range(200)] + ["test/1/a"])
    assert found["test/1/a"].split == "test"
    splits = [found[f"train/{k}/a"].split for k in range(200)]
    assert 0.03 < splits.count("validation") / 200 < 0.22
    assert set(splits) == {"train", "validation"}
    assert {one.split for one in recordings(tmp_path, fractions=(0, 0, 1))} == {"train", "test"}


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("Dev-other", "validation"),
        ("val", "validation"),
        ("valid_2", "validation"),
        ("TEST", "test"),
        ("train2", "train"),
    ],
)
def test_folders_that_say_the_split(tmp_path, folder, split):
    one = many(tmp_path, [f"{folder}/eva_1", "validation/a"])[f"{folder}/eva_1"]
    assert (one.split, one.voice) == (split, "eva")


def test_folders_that_say_none(tmp_path):
    found = many(tmp_path, ["testimony/1", "trainer/1", "valentin/1"])
    assert [one.voice for one in found.values()] == ["testimony", "trainer", "valentin"]
    with pytest.raises(UserError, match="testimony/1 is in no folder train, validation or test, but others are"):
        many(tmp_path, ["train/2"])
