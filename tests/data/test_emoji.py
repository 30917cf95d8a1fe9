"""The shipped emoji corpus: whole, aligned, licensed, and nothing of one split in another."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest

from indattn.data.emoji import ARTISTS, SIZES, SPLITS, emoji_folder, load_emoji, near_identical, sheet_drawings
from indattn.errors import UserError

FOLDER = emoji_folder()
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
LICENCES = {"Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT", "Unicode-3.0"}


@pytest.fixture(scope="module", params=SIZES)
def emoji(request):
    return load_emoji(request.param)


@pytest.fixture(scope="module")
def small():
    return load_emoji()


@pytest.fixture
def copy(tmp_path):
    """Another copy of the corpus, to be damaged."""
    return shutil.copytree(FOLDER, tmp_path / "emoji")


def test_shapes_and_types(emoji):
    count = MANIFEST["concepts"]
    assert len(emoji) == count > 1500
    assert emoji.images.shape == (count, len(ARTISTS), emoji.size, emoji.size, 3)
    assert emoji.images.dtype == np.uint8
    assert emoji.artists == ARTISTS == tuple(MANIFEST["artists"])
    assert emoji.groups.shape == emoji.splits.shape == (count,)
    for column in (emoji.codepoints, emoji.names, emoji.keywords, emoji.texts):
        assert len(column) == count
    assert len(set(emoji.codepoints)) == len(set(emoji.names)) == count


def test_texts_are_name_and_keywords(small):
    row = small.names.index("credit card")
    assert small.texts[row] == "credit card | bank, card, cash, charge, credit, money, pay"
    assert small.keywords[row] == ("bank", "card", "cash", "charge", "credit", "money", "pay")
    assert small.codepoints[row] == "1f4b3"
    assert all(name and words for name, words in zip(small.names, small.keywords, strict=True))


def test_both_sizes_have_the_same_concepts_and_splits(small):
    large = load_emoji(48)
    assert small.texts == large.texts
    assert (small.groups == large.groups).all()
    assert (small.splits == large.splits).all()


def test_every_concept_has_four_drawings(emoji):
    ink = (emoji.images < 245).any(axis=-1).sum(axis=(2, 3))
    assert ink.min() > 0.04 * emoji.size**2, [
        emoji.names[row] for row in np.flatnonzero(ink.min(axis=1) <= 0.04 * emoji.size**2)
    ]


def test_the_artists_are_aligned(small):
    """No artist's sheet is displaced against another's: drawings differ least where both are of one concept."""
    cells = small.images.reshape(len(small), 4, 8, 4, 8, 4, 3).mean(axis=(3, 5), dtype=np.float32)
    for a in range(4):
        for b in range(a):
            shifts = range(-3, 4)
            differences = [float(np.square(cells[:, a] - np.roll(cells[:, b], k, axis=0)).mean()) for k in shifts]
            assert shifts[int(np.argmin(differences))] == 0, (ARTISTS[a], ARTISTS[b])
            assert sorted(differences)[0] < 0.9 * sorted(differences)[1], (ARTISTS[a], ARTISTS[b])


def test_the_splits_have_their_shares(small):
    for split in SPLITS:
        rows = small.rows(split)
        assert (np.diff(rows) > 0).all()
        stated = MANIFEST["splits"][split]
        assert stated == {"concepts": len(rows), "groups": len(set(small.groups[rows].tolist()))}
        assert len(rows) / len(small) == pytest.approx(0.7 if split == "train" else 0.15, abs=0.01)
    assert sum(len(small.rows(split)) for split in SPLITS) == len(small)


def test_no_group_crosses_a_split(small):
    for group in range(int(small.groups.max()) + 1):
        assert len(set(small.splits[small.groups == group].tolist())) == 1


def test_no_near_identical_drawing_crosses_a_group_or_split(emoji):
    near = near_identical(emoji.images)
    assert (near == near.T).all()
    assert near.sum() > len(emoji) + 1000, "the measure finds something"
    rows, columns = np.nonzero(near)
    assert (emoji.groups[rows] == emoji.groups[columns]).all()
    assert (emoji.splits[rows] == emoji.splits[columns]).all()


def test_no_identical_drawing_crosses_a_group_or_split(emoji):
    owners = defaultdict(set)
    for row, drawings in enumerate(emoji.images):
        for drawing in drawings:
            owners[drawing.tobytes()].add(row)
    twins = [sorted(rows) for rows in owners.values() if len(rows) > 1]
    assert twins, "there are some: man farmer and farmer, by one artist"
    for rows in twins:
        assert len(set(emoji.groups[rows].tolist())) == len(set(emoji.splits[rows].tolist())) == 1


def test_the_measure():
    images = np.full((4, 1, 32, 32, 3), 255, np.uint8)
    images[0, 0, :16] = 0
    images[1, 0, :15] = 0  # one row of 16 less
    images[2, 0, 16:] = 0  # no cell in common
    images[3, 0, :12] = 0
    near = near_identical(images)
    assert near[0, 1]
    assert not near[0, 2]
    assert near.diagonal().all()
    # |a - b|^2 / (|a|^2 + |b|^2), a row of cells being two of pixels: 2 / (8 + 6) > 1/25
    assert not near[0, 3]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("man farmer", "farmer"),
        ("woman health worker", "man health worker"),
        ("one-thirty", "six-thirty"),
        ("up arrow", "left arrow"),
        ("full moon", "new moon face"),
        ("OK button", "play button"),
    ],
)
def test_names_that_belong_together_are_one_group(small, first, second):
    assert small.groups[small.names.index(first)] == small.groups[small.names.index(second)]


def test_an_unknown_size_or_split(small):
    with pytest.raises(UserError, match=r"size=64: must be 32 or 48"):
        load_emoji(64)
    with pytest.raises(UserError, match=r"no split 'tests'; did you mean 'test'\?"):
        small.rows("tests")


@pytest.mark.parametrize("name", ["concepts.csv", "fluent-32.png"])
def test_a_damaged_file_is_one_line(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_emoji(folder=copy)
    message = str(error.value)
    assert str(copy / name) in message
    assert "damaged" in message
    assert "\n" not in message


def test_a_missing_file_is_one_line(copy):
    (copy / "noto-48.png").unlink()
    assert len(load_emoji(32, folder=copy)) == MANIFEST["concepts"], "the other size does not need it"
    with pytest.raises(UserError, match=r"noto-48\.png cannot be read \(No such file or directory\): install"):
        load_emoji(48, folder=copy)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": {"concepts.csv": "x"}}', "{\xff"])
def test_a_damaged_manifest_is_one_line(copy, content):
    (copy / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        load_emoji(folder=copy)


def test_the_manifest_has_every_file_and_its_hash():
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert files == {"manifest.json", *MANIFEST["files"]}
    for name, entry in MANIFEST["files"].items():
        content = (FOLDER / name).read_bytes()
        assert len(content) == entry["bytes"], name
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name


def test_the_manifest_names_sources_and_no_place():
    text = (FOLDER / "manifest.json").read_text(encoding="utf-8")
    assert "://" not in text
    assert "/tmp" not in text
    assert set(MANIFEST["sources"]) == {*ARTISTS, "texts", "licences"}
    for source in MANIFEST["sources"].values():
        assert source["package"].startswith("npm ")
        assert source["integrity"].startswith("sha512-")
        assert source["version"]
        assert source["author"]
    assert set(MANIFEST["renderer"]) == {"resvg-py", "resvg", "pillow"}


def test_the_sheets_decode_to_the_concepts():
    for name in ARTISTS:
        for size in SIZES:
            sheet = (FOLDER / f"{name}-{size}.png").read_bytes()
            tiles = sheet_drawings(sheet, 10**6, size)
            count = MANIFEST["concepts"]
            assert len(tiles) == -(-count // MANIFEST["columns"]) * MANIFEST["columns"]
            assert (tiles[:count] < 245).any(axis=(1, 2, 3)).all()
            assert (tiles[count:] == 255).all(), "what is over is white"


def test_every_part_has_its_licence_and_is_named_in_the_notice():
    notice = (FOLDER / "LICENSES" / "NOTICE.txt").read_text(encoding="utf-8")
    parts = {part: source for part, source in MANIFEST["sources"].items() if part != "licences"}
    assert {source["licence"] for source in parts.values()} == LICENCES
    for part, source in parts.items():
        licence = (FOLDER / "LICENSES" / f"{source['licence']}.txt").read_text(encoding="utf-8")
        assert len(licence) > 1000
        assert f"{source['licence']}.txt" in notice
        assert f"{source['package']} {source['version']}" in notice
        assert (f"{part}-32.png, {part}-48.png" in notice) or part == "texts"
    assert "<year>" not in (FOLDER / "LICENSES" / "MIT.txt").read_text(encoding="utf-8")
    assert notice.count("Changed:") == len(parts)


def test_the_loader_needs_no_torch():
    code = "import sys; from indattn.data.emoji import load_emoji; load_emoji(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parents[2]).returncode == 0
