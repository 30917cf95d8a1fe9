"""One's own pictures and texts: every format, every error in one line, splits that no machine decides otherwise."""

from __future__ import annotations

import csv
import io
import json
import os
import string
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from indattn.data.own import own_pairs, split_of
from indattn.data.pairs import SPLITS, load_pairs
from indattn.errors import UserError

COLOURS = {"red.png": (255, 0, 0), "birds/green.jpg": (0, 255, 0), "birds/blue.bmp": (0, 0, 255)}


def picture(path, colour=(10, 20, 30), size=(6, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three pictures and nothing else."""
    for name, colour in COLOURS.items():
        picture(tmp_path / "own" / name, colour)
    return tmp_path / "own"


def table(folder, text, name="captions.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def karpathy(folder, *images, name="dataset.json", **more):
    path = folder / name
    path.write_text(json.dumps({"images": images, **more}), encoding="utf-8")
    return path


def sentences(*texts, start=0):
    return [{"raw": text, "sentid": start + i} for i, text in enumerate(texts)]


def read_all(data, **arguments):
    pairs = own_pairs(data, **arguments)
    return pairs.images.read(range(len(pairs.images)), 4)


def refused(data, *parts, **arguments):
    with pytest.raises(UserError) as caught:
        read_all(data, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(data), *parts):
        assert part in message, message
    return message


# formats -------------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures_with_texts_beside_them(folder):
    (folder / "red.txt").write_text("Red.\n\n  All red. \n", encoding="utf-8-sig")
    (folder / "birds" / "green.txt").write_text("Grün.")
    (folder / "birds" / "blue.txt").write_text("Blue.\r\nNothing but blue.\r\n")
    (folder / "README.txt").write_text("No caption.")
    (folder / "._red.png").write_bytes(b"what macOS leaves")
    pairs = own_pairs(folder, needed=())
    assert pairs.name == "own"
    assert pairs.sources == ("own",)
    assert pairs.texts == ("Blue.", "Nothing but blue.", "Grün.", "Red.", "All red.")
    assert pairs.text_items.tolist() == [0, 0, 1, 2, 2]
    assert pairs.image_items.tolist() == [0, 1, 2]
    assert pairs.groups.tolist() == [0, 1, 2]
    assert set(pairs.splits) <= set(SPLITS)


def test_pictures_are_read_in_the_order_asked_for(folder):
    pairs = own_pairs(table(folder, "image,caption\n" + "".join(f"{name},x\n" for name in COLOURS)), needed=())
    pixels = pairs.images.read([2, 0, 1, 0], 8)
    assert pixels.shape == (4, 8, 8, 3)
    assert pixels.dtype == np.uint8
    wanted = [list(COLOURS.values())[row] for row in (2, 0, 1, 0)]
    np.testing.assert_allclose(pixels[:, 4, 4], wanted, atol=2)
    assert pairs.images.read([], 8).shape == (0, 8, 8, 3)


def test_pictures_stand_upright_and_are_not_stretched(tmp_path):
    photo = Image.new("RGB", (1200, 600), "white")
    photo.paste("red", (0, 0, 600, 600))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held on its side: left is up
    photo.save(tmp_path / "a.jpg", exif=turned)
    pairs = own_pairs(table(tmp_path, "image,caption\na.jpg,x\n"), needed=())
    pixels = pairs.images.read([0], 16)[0].astype(int)
    assert (pixels[2, 8] - [255, 0, 0] < 20).all(), "red is up"
    assert (pixels[:, :3] > 235).all(), "white beside the shorter side"
    assert pixels[13, 8].min() > 235


def test_a_table_with_all_columns(folder):
    text = """\ufeffimage,id,caption,split,group,source,note
red.png,1,"Red, they say",val,warm,ann,
birds/green.jpg,2,Green,train,cold,bob,
,,,,,,
./red.png,3,"Two
lines",validation,warm,ann,x
birds/blue.bmp,4,Blue,test,,,
"""
    pairs = own_pairs(table(folder, text, "mine.csv"))
    assert pairs.name == "mine"
    assert pairs.texts == ("Red, they say", "Green", "Two\nlines", "Blue")
    assert pairs.text_items.tolist() == [0, 1, 0, 2]
    assert pairs.splits.tolist() == ["validation", "train", "test"]
    assert pairs.groups.tolist() == [0, 1, 2]
    assert pairs.sources == ("ann", "bob", "mine")
    assert pairs.image_sources.tolist() == [0, 1, 2]
    assert pairs.items("test").tolist() == [2]


def test_several_caption_columns_of_which_some_may_be_empty(folder):
    rows = "red.png,two,ten,one\nbirds/green.jpg,,,only\n"
    pairs = own_pairs(table(folder, "image,caption_2,caption_10,caption_1\n" + rows), needed=())
    assert pairs.texts == ("one", "two", "ten", "only")
    assert pairs.text_items.tolist() == [0, 0, 0, 1]


def test_a_folder_with_a_table_is_read_by_the_table(folder):
    table(folder, "image,caption\nred.png,Red\n")
    pairs = own_pairs(folder, needed=())
    assert pairs.name == "own"
    assert pairs.texts == ("Red",)


def test_pictures_may_lie_elsewhere(folder, tmp_path):
    path = table(tmp_path, "image,caption\nred.png,Red\n", "elsewhere.csv")
    assert own_pairs(path, images=folder, needed=()).texts == ("Red",)
    refused(path, "row 2", str(tmp_path / "red.png"), "images=FOLDER")


def test_karpathy_s_json(folder):
    path = karpathy(
        folder,
        {"filename": "red.png", "split": "restval", "imgid": 0, "sentences": sentences("Red.", " Very red. ")},
        {
            "filename": "green.jpg",
            "filepath": "birds",
            "split": "val",
            "imgid": 1,
            "sentences": sentences("G", start=2),
        },
        {"filename": "blue.bmp", "filepath": "birds", "split": "test", "imgid": 2, "sentences": [{"raw": "B"}]},
        dataset="tiny",
    )
    pairs = load_pairs(str(path))
    assert pairs.name == "tiny"
    assert pairs.sources == ("tiny",)
    assert pairs.splits.tolist() == ["train", "validation", "test"]
    assert pairs.texts == ("Red.", "Very red.", "G", "B")
    assert pairs.text_items.tolist() == [0, 0, 1, 2]
    np.testing.assert_allclose(pairs.images.read([1, 2], 4)[:, 2, 2], [(0, 255, 0), (0, 0, 255)], atol=2)


def test_parquet_reads_as_the_same_table_does(folder):
    pytest.importorskip("pyarrow")
    import pandas as pd

    rows = {"image": list(COLOURS), "caption_1": ["a", "b", "c"], "caption_2": [None, "d", None], "id": [3, 1, 2]}
    frame = pd.DataFrame({**rows, "vector": [[1.0]] * 3})
    frame.to_parquet(folder / "captions.parquet")
    pairs = own_pairs(folder, needed=())
    assert pairs.texts == ("a", "b", "d", "c")
    pd.DataFrame({"image": [{"bytes": b""}], "caption": ["a"]}).to_parquet(folder / "captions.parquet")
    refused(folder, "row 2", "image must be text")
    pd.DataFrame({"image": ["red.png"], "captions": ["a"]}).to_parquet(folder / "captions.parquet")
    refused(folder, "no column 'caption'", "'captions'")
    (folder / "captions.parquet").write_bytes(b"nothing")
    refused(folder, "no Parquet")


def test_parquet_without_pyarrow_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder / "own.parquet").write_bytes(b"PAR1")
    refused(folder / "own.parquet", "pip install 'indattn[parquet]'")


# errors --------------------------------------------------------------------------------------------------------

TABLES = [
    ("", "no column 'image'"),
    ("image,caption\n", "no picture"),
    ("image;caption\nred.png;Red\n", "no column 'image'; known: image;caption"),
    ("img,caption\nred.png,Red\n", "no column 'image'; did you mean 'img'?"),
    ("image,text\nred.png,Red\n", "no column 'caption'; known: image, text"),
    ("image,caption,caption\nred.png,Red,Rot\n", "two columns are called 'caption'"),
    ("image,caption\n\nred.png,Red\nbirds/crow.jpg,Crow\n", "row 4: no picture"),
    ("image,caption\nbirds,Red\n", "row 2: no picture"),
    ("image,caption\n,Red\n", "row 2: no image"),
    ("image,caption\nred.png,Red\nred.png,\n", "row 3: empty caption of red.png"),
    ("image,caption_1,caption_2\nred.png, ,\n", "row 2: empty caption of red.png"),
    ("image,caption\nred.png,Red, or so\n", "row 2: 3 cells, the header has 2 (quotes"),
    ('image,caption\nred.png,"Red" or so\n', "row 2: no CSV"),
    ('image,caption\nred.png,"Red\n', "row 2: no CSV"),
    ("image,caption,id\nred.png,Red,7\nred.png,Rot,8\nred.png,Rouge,7\n", "row 4: id '7' is also that of row 2"),
    ("image,caption,split\nred.png,Red,trian\n", "row 2: no split 'trian'; did you mean 'train'"),
    ("image,caption,split\nred.png,Red,\n", "row 2: no split ''"),
    (
        "image,caption,split\nred.png,Red,train\nred.png,Rot,test\n",
        "row 3: split of red.png is 'test', but 'train' in row 2",
    ),
    ("image,caption,group\nred.png,Red,a\nred.png,Rot,b\n", "row 3: group of red.png is 'b', but 'a' in row 2"),
    (
        "image,caption,split,group\nred.png,Red,train,a\nbirds/blue.bmp,Blue,test,a\n",
        "row 3: group 'a' is in split 'test', but in 'train' in row 2",
    ),
    (
        "image,caption,split\nred.png,Red,train\nbirds/blue.bmp,Blue,test\n",
        "no picture in split 'validation' (1 train, 0 val",
    ),
]


@pytest.mark.parametrize(("text", "said"), TABLES, ids=[said for _, said in TABLES])
def test_a_wrong_table_gets_one_line_with_the_row(folder, text, said):
    refused(table(folder, text), said)


def test_a_table_in_another_encoding(folder):
    path = folder / "captions.csv"
    path.write_bytes("image,caption\nred.png,Grün\n".encode("latin-1"))
    refused(path, "is not UTF-8", "byte 25")


JSONS = [
    ("{", "no JSON"),
    ("[]", "'images'"),
    ('{"images": {}}', "'images'"),
    ('{"images": []}', "no picture"),
    ('{"images": [{"file_name": "red.png"}]}', "images[0]: must have 'filename'"),
    ('{"images": [7]}', "images[0]: must have 'filename'"),
    ('{"images": [{"filename": "red.png", "sentences": [{"tokens": []}]}]}', "images[0]: must have 'filename'"),
    ('{"images": [{"filename": "red.png", "sentences": []}]}', "images[0] (red.png): empty caption"),
    ('{"images": [{"filename": "red.png", "sentences": [{"raw": "a"}, {"raw": " "}]}]}', "(red.png): empty caption"),
    ('{"images": [{"filename": "crow.png", "sentences": [{"raw": "a"}]}]}', "images[0] (crow.png): no picture"),
    (
        '{"images": [{"filename": "red.png", "split": "vla", "sentences": [{"raw": "a"}]}]}',
        "no split 'vla'; did you mean 'val'",
    ),
]


@pytest.mark.parametrize(("text", "said"), JSONS, ids=[said + text[:40] for text, said in JSONS])
def test_wrong_json_gets_one_line_with_the_picture(folder, text, said):
    refused(table(folder, text, "dataset.json"), said)


def test_an_id_twice_in_json(folder):
    one = {"filename": "red.png", "imgid": 1, "sentences": sentences("a")}
    other = {"filename": "birds/blue.bmp", "imgid": 2, "sentences": sentences("b")}
    said = "images[1] (birds/blue.bmp): sentid '0' is also that of images[0] (red.png)"
    refused(karpathy(folder, one, other), said)
    refused(karpathy(folder, one, {**other, "imgid": 1, "sentences": sentences("b", start=1)}), "imgid '1' is also")


def test_a_wrong_folder_gets_one_line(folder, tmp_path):
    refused(tmp_path / "nowhere", "no such file or folder")
    refused(folder, "birds/blue.bmp has no text", "blue.txt is missing")
    for name in COLOURS:
        (folder / name).with_suffix(".txt").write_text("x")
    refused(folder, "itself", images=tmp_path)
    (folder / "red.txt").write_text(" \n")
    refused(folder, "red.txt is empty")
    (folder / "red.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"red\.txt: is not UTF-8"):
        own_pairs(folder)
    refused(folder / "red.txt", "must be a folder, or a .csv")
    (folder / "red.txt").write_text("x")
    picture(folder / "red.gif")
    refused(folder, "red.gif and red.png share one text")
    table(folder, "image,caption\nred.png,x\n")
    table(folder, "", "captions.parquet")
    refused(folder, "captions.csv and captions.parquet")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no picture")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        own_pairs(folder / "captions.csv", images=tmp_path / "nowhere")


@pytest.mark.parametrize("damage", [b"", b"no picture", b"half"])
def test_a_picture_that_cannot_be_read_is_named_with_its_row(folder, damage):
    whole = folder / "noise.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    whole.write_bytes(whole.read_bytes()[:2000] if damage == b"half" else damage)
    path = table(folder, "image,caption\nred.png,Red\nnoise.png,Noise\n")
    pairs = own_pairs(path, needed=())
    assert pairs.images.read([0], 4).shape == (1, 4, 4, 3)
    refused(path, f"row 3: cannot read {whole}", needed=())


def test_a_name_that_is_none_gets_the_nearest():
    with pytest.raises(UserError, match="did you mean 'emoji'"):
        load_pairs("emojis")


# splits and fingerprint ----------------------------------------------------------------------------------------


def test_the_hash_that_splits_is_fixed():
    names = [f"{i:03}.jpg" for i in range(12)]
    assert "".join(split_of(name)[1] for name in names) == "rrrraerrarrr"
    counts = [[split_of(str(i)) for i in range(20000)].count(split) / 20000 for split in SPLITS]
    np.testing.assert_allclose(counts, [0.70, 0.15, 0.15], atol=0.01)


words = st.text(string.ascii_letters + " ,\"';äß", min_size=1, max_size=12).filter(str.strip)
rows = st.lists(st.tuples(st.integers(0, 5), words, st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows)
def test_what_is_written_is_read_whole_groups_in_one_split(tmp_path, rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["caption", "group", "image"])
    for image, caption, _ in rows:
        writer.writerow([caption, f"g{image % 3}", f"{image}.png"])
        if not (tmp_path / f"{image}.png").exists():
            picture(tmp_path / f"{image}.png")
    pairs = own_pairs(table(tmp_path, text.getvalue()), needed=())
    names = [path.stem for path in pairs.images.paths]
    assert names == [str(image) for image in dict.fromkeys(image for image, _, _ in rows)]
    read = [(names[item], text) for item, text in zip(pairs.text_items, pairs.texts, strict=True)]
    assert read == [(str(image), caption.strip()) for image, caption, _ in rows]
    for item, name in enumerate(names):
        assert pairs.splits[item] == split_of(f"g{int(name) % 3}")
    assert len(set(pairs.groups)) == len({int(name) % 3 for name in names})


def test_splits_do_not_depend_on_where_the_folder_lies(folder, tmp_path):
    for name in COLOURS:
        (folder / name).with_suffix(".txt").write_text("x")
    before = own_pairs(folder, needed=())
    assert before.splits.tolist() == [split_of(name) for name in sorted(COLOURS)]
    folder.rename(tmp_path / "moved")
    after = own_pairs(tmp_path / "moved", needed=())
    assert (after.splits == before.splits).all()
    assert after.fingerprint == before.fingerprint


def test_the_fingerprint_knows_captions_and_pictures(folder):
    rows = "".join(f"{name},x\n" for name in COLOURS)
    path = table(folder, "image,caption\n" + rows)
    prints = [own_pairs(path, needed=()).fingerprint]
    table(folder, "image,caption\n" + rows.replace("x", "y", 1))
    prints.append(own_pairs(path, needed=()).fingerprint)
    picture(folder / "red.png", size=(7, 7))
    prints.append(own_pairs(path, needed=()).fingerprint)
    os.utime(folder / "red.png", (1, 1))
    prints.append(own_pairs(path, needed=()).fingerprint)
    assert len(set(prints)) == 4
    assert own_pairs(path, needed=()).fingerprint == prints[-1]
