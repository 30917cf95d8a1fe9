"""Tux Paint stamps: what is kept of a package, from a small one that the test packs itself; no network."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np
import pytest
from debs import STAMPS
from debs import write_deb as write
from PIL import Image

from indattn.data import tuxpaint
from indattn.data.pairs import load_pairs
from indattn.data.tuxpaint import PACKAGE, flatness, prepare, stamps, unpack
from indattn.errors import UserError


def png(seed, size=(300, 150), grain=True):
    """A picture with grain, or in flat colours; transparent on its left tenth."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 255, (size[1], size[0], 4) if grain else (1, 1, 4), np.uint8)
    pixels = np.broadcast_to(pixels, (size[1], size[0], 4)).copy()
    pixels[..., 3] = 255
    pixels[:, : size[0] // 10, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


FILES = {
    "animals/birds/crow.png": png(1),
    "animals/birds/crow.txt": "A crow.\nde.utf8=Eine Krähe.\n",
    "animals/birds/crow.ogg": b"sound",
    "animals/birds/cartoon/gull.png": png(2),
    "animals/birds/cartoon/gull.txt": "A  gull.",
    "animals/birds/crow_mirror.png": png(3),
    "animals/insects/bee.png": png(4, (20, 40), grain=False),
    "animals/insects/bee.txt": "A bee.",
    "food/again.png": png(1),
    "food/again.txt": "Another caption.",
    "food/bee.png": png(5),
    "food/bee.txt": "a Bee.",
    "food/crow.png": png(6),
    "food/crow.txt": "A crow.",
    "food/translated.png": png(7),
    "food/translated.txt": "de.utf8=Essen.",
    "symbols/math/7.png": png(8),
    "symbols/math/7.txt": "Seven.",
    "symbols/chess/king.png": png(9),
    "symbols/chess/king.txt": "King.",
}


def write_deb(path, files=None, **how):
    """A package with these files, by default all of :data:`FILES`."""
    return write(path, {STAMPS + name: data for name, data in FILES.items()} if files is None else files, **how)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["dpkg-deb", "python"])
def unpacker(request, monkeypatch):
    """With ``dpkg-deb`` and without."""
    if request.param == "python":
        monkeypatch.setattr(tuxpaint.shutil, "which", lambda name: None)
    elif shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    return request.param


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_a_package_becomes_a_corpus(cache, tmp_path, unpacker, compression):
    folder = prepare(write_deb(tmp_path / "stamps.deb", compression=compression), progress=False)
    assert folder == cache / "tuxpaint"
    assert [path.name for path in cache.iterdir()] == ["tuxpaint"], "nothing is left beside it"
    pairs = load_pairs("tuxpaint")
    assert pairs.name == "tuxpaint"
    assert pairs.texts == ("A gull.", "A crow.", "a Bee.", "King.")
    assert [pairs.sources[i] for i in pairs.image_sources] == ["drawing", "photo", "photo", "drawing"]
    assert pairs.groups.tolist() == [0, 0, 1, 2], "a folder of cartoons counts to the one above"
    assert set(pairs.splits) == {"test"}
    assert pairs.images.read([0, 1, 2, 3], 48).shape == (4, 48, 48, 3)
    readme = (folder / "README.txt").read_text()
    assert "4 pictures: 2 photos, 2 drawings" in readme
    assert "2 no caption, 1 glyph or coin, 1 same picture, 2 same caption" in readme
    for part in ("GPL", "version 2", PACKAGE, "stamps.deb, SHA-256 ", "Bill Kendrick"):
        assert part in readme.replace("General Public License", "GPL")
    assert (folder / "copyright").read_text() == "GPL-2\n"
    with Image.open(folder / "pictures/animals/birds/crow.png") as picture:
        assert picture.mode == "RGBA"
        assert picture.size == (224, 112)
        assert picture.getchannel("A").getextrema() == (0, 255)


def test_preparing_again_replaces_all_of_it(cache, tmp_path):
    package = write_deb(tmp_path / "stamps.deb")
    folder = prepare(package, progress=False)
    (folder / "captions.csv").write_text("damaged")
    with pytest.raises(UserError, match=r"no column 'image'.*prepare tuxpaint force=true"):
        load_pairs("tuxpaint")
    (folder / "stray").touch()
    prepare(package, progress=False)
    assert len(load_pairs("tuxpaint").images) == 4
    assert not (folder / "stray").exists()


def test_what_is_not_prepared_says_how(cache):
    with pytest.raises(UserError, match="indattn data prepare tuxpaint"):
        load_pairs("tuxpaint")


def test_a_small_picture_stays_small(tmp_path):
    unpack(write_deb(tmp_path / "stamps.deb"), tmp_path / "raw")
    (tmp_path / "raw/food/bee.txt").unlink()
    kept, _ = stamps(tmp_path / "raw")
    assert {stamp.caption: stamp.picture.size for stamp in kept}["A bee."] == (20, 40)


def test_flatness_is_of_opaque_pixels_alone():
    flat = np.full((8, 8, 4), 255, np.uint8)
    assert flatness(Image.fromarray(flat)) == 1
    flat[:, ::2, :3] = 0
    assert flatness(Image.fromarray(flat)) == 0
    flat[:, :4, :3], flat[:, 4:, 3] = 7, 0
    assert flatness(Image.fromarray(flat)) == 1
    flat[..., 3] = 0
    assert flatness(Image.fromarray(flat)) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"", "no Debian package"), (b"!<arch>\n", "no Debian package"), (b"PK", "not an ar")],
)
def test_what_is_no_package_gets_one_line(cache, tmp_path, unpacker, content, said):
    path = tmp_path / "wrong.deb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        prepare(path, progress=False)
    assert "wrong.deb" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_package_cut_short_is_damaged(cache, tmp_path, unpacker):
    path = write_deb(tmp_path / "stamps.deb")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="no Debian package that can be read"):
        prepare(path, progress=False)


def test_another_package_has_no_stamps(cache, tmp_path, unpacker):
    other = {
        "./usr/bin/other": b"x",
        f"{STAMPS}../../../escaped.png": png(1),
        f"{STAMPS}/escaped.png": png(1),
        f"{STAMPS}a.txt": "x",
    }
    with pytest.raises(UserError, match=f"has no Tux Paint stamps; {PACKAGE}"):
        prepare(write_deb(tmp_path / "other.deb", other), progress=False)
    assert not list(tmp_path.rglob("escaped.png"))


def test_zstd_without_dpkg_deb_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tuxpaint.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="zstd needs dpkg-deb"):
        unpack(write_deb(tmp_path / "stamps.deb", compression="zst"), tmp_path / "raw")
    with pytest.raises(UserError, match=r"no data\.tar"):
        unpack(write_deb(tmp_path / "stamps.deb", name="date.tar"), tmp_path / "raw")


def test_a_damaged_stamp_is_named(cache, tmp_path):
    files = {f"{STAMPS}a.png": b"damaged", f"{STAMPS}a.txt": "A."}
    with pytest.raises(UserError, match=r"a\.png: damaged picture"):
        prepare(write_deb(tmp_path / "stamps.deb", files), progress=False)
    assert list(cache.iterdir()) == []


def test_apt_get_gets_it(cache, monkeypatch):
    def run(command, cwd, **_):
        assert command == ["apt-get", "download", PACKAGE]
        write_deb(cwd / f"{PACKAGE}_1_all.deb")
        return subprocess.CompletedProcess(command, 0, stderr="W: Download is performed unsandboxed\n")

    monkeypatch.setattr(tuxpaint.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(tuxpaint.subprocess, "run", run)
    assert len((prepare(progress=False) / "captions.csv").read_text().splitlines()) == 5


def test_apt_get_that_fails_or_is_not_there(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 100, stderr="W: hm\nE: Unable to locate package\n")
    monkeypatch.setattr(tuxpaint.shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(tuxpaint.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"failed \(E: Unable to locate package\): download the .deb.*file=PATH"):
        prepare(progress=False)
    monkeypatch.setattr(tuxpaint.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no apt-get: download"):
        prepare(progress=False)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write"):
        prepare(write_deb(tmp_path / "stamps.deb"), progress=False)
