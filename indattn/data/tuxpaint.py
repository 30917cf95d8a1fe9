"""Tux Paint stamps: real photos and drawings with English captions, to test on what no emoji artist drew.

They come with the Debian package ``tuxpaint-stamps-default`` (GPL-2, Bill Kendrick and contributors), which
``indattn data prepare tuxpaint`` gets and unpacks into ``<cache>/tuxpaint``. Nothing of it is shipped here.

Of the 796 PNG stamps of version 2022.06.04-1, 515 are kept, in 81 groups, all as ``test``. Left out are

- 223 letters, digits, signs of American Sign Language, mathematical signs, notes, coins and currency signs: a numeral
  or a letter is all that tells them apart;
- 46 whose caption another picture has (*A flower.* six times), since a right answer would then count as wrong: the
  first by path is kept, a photo before a drawing;
- 11 without a caption, which are mirror images, and 1 picture that is there twice.

165 more stamps are there as SVG only and are not rendered. Captions are the package's, unchanged: most name what is to
be seen (*A crow.*), some explain it or talk about it (*Boom!!!*, *Remember to flush the toilet ...*).

**Photo or drawing.** A picture counts as ``drawing`` when it lies in a folder ``cartoon`` or ``symbols``, or when at
least 40% of its pixels are as the one on their left (:func:`flatness`); else as ``photo``. It is a rule of thumb. Seen
one by one, about 25 of the 326 photos are drawn after all (road signs, Easter and Christmas pictures in pastel, small
drawings with grain), and about 10 of the 189 drawings are photos of smooth things (a rhino, a shrimp, a toilet, the
moon's dark side).
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from tqdm import tqdm

from indattn.data.cache import cache_dir
from indattn.data.own import own_pairs
from indattn.data.pairs import Pairs
from indattn.errors import UserError

__all__ = ["PACKAGE", "Stamp", "build", "fetch", "prepare", "stamps", "tuxpaint_folder", "tuxpaint_pairs", "unpack"]

PACKAGE = "tuxpaint-stamps-default"
WHERE = "in Debian, Ubuntu and what descends from them"

SIDE = 224
"""Longer side of a picture that is kept, in pixels."""

FLAT = 0.4
"""Share of flat pixels from which on a picture counts as drawn."""

GLYPHS = re.compile(r"symbols/(alphabets|math|music|money)/")
"""Stamps of characters, notes and coins: what tells them apart is a numeral or a letter."""


@dataclass(frozen=True)
class Stamp:
    """A stamp that is kept.

    Attributes:
        image: its path below the folder of stamps, ``animals/birds/crow.png``.
        caption: the first line of the text beside it.
        group: its folder, those of cartoons and toys counted to the one above.
        source: ``photo`` or ``drawing``.
        picture: RGBA, at most :data:`SIDE` pixels on the longer side.
    """

    image: str
    caption: str
    group: str
    source: str
    picture: Image.Image


def tuxpaint_folder() -> Path:
    """Where the prepared corpus lies."""
    return cache_dir() / "tuxpaint"


def tuxpaint_pairs() -> Pairs:
    """The prepared corpus; all of it is ``test``, its sources are ``photo`` and ``drawing``.

    Raises:
        UserError: if it is not prepared.
    """
    table = tuxpaint_folder() / "captions.csv"
    if not table.is_file():
        raise UserError(f"tuxpaint: not in {table.parent} yet: indattn data prepare tuxpaint gets it (161 MB)")
    try:
        return own_pairs(table, name="tuxpaint", needed=("test",))
    except UserError as error:
        raise UserError(f"{error}: indattn data prepare tuxpaint force=true makes it anew") from error


def prepare(package: str | Path | None = None, progress: bool = True) -> Path:
    """Get the package, keep what is usable, write it to :func:`tuxpaint_folder`: complete or not at all.

    Args:
        package: the ``.deb`` file; by default ``apt-get download`` gets it.
        progress: whether to show a bar.

    Returns:
        The folder, with ``captions.csv``, ``pictures/``, ``README.txt`` and the package's ``copyright``.

    Raises:
        UserError: if the package cannot be got or read, or the folder cannot be written.
    """
    target = tuxpaint_folder()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tuxpaint-") as temporary:
            deb = fetch(Path(temporary)) if package is None else Path(package)
            raw, made = Path(temporary) / "raw", Path(temporary) / "made"
            unpack(deb, raw, progress)
            build(raw, made, f"{deb.name}, SHA-256 {hashlib.sha256(deb.read_bytes()).hexdigest()}", progress)
            if target.exists():
                os.replace(target, Path(temporary) / "old")
            os.replace(made, target)
    except OSError as error:
        raise UserError(f"tuxpaint: cannot write {target}: {error.strerror or error}") from error
    return target


def fetch(folder: Path) -> Path:
    """Download the package with ``apt-get`` (no root needed).

    Raises:
        UserError: if there is no ``apt-get``, or it fails.
    """
    otherwise = f"download the .deb of {PACKAGE} ({WHERE}) and give it as file=PATH"
    if shutil.which("apt-get") is None:
        raise UserError(f"tuxpaint: this system has no apt-get: {otherwise}")
    done = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, stdout=2, stderr=subprocess.PIPE, text=True)
    found = list(folder.glob("*.deb"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["it says nothing"]
        raise UserError(f"tuxpaint: apt-get download {PACKAGE} failed ({said[0]}): {otherwise}")
    return found[0]


def unpack(
    deb: Path, folder: Path, progress: bool = False, stamp: str = r".+\.png", what: str = "Tux Paint stamps"
) -> None:
    """Write the pictures and texts of a package, below ``folder``, and its ``copyright``.

    Args:
        deb: the package.
        folder: where to.
        progress: whether to show a bar.
        stamp: regular expression of the files wanted besides the texts: paths below the folder of stamps.
        what: what these are, for messages.

    Raises:
        UserError: if the file is no such package, or has no file that is wanted.
    """
    wanted = re.compile(rf"(?:\./)?usr/share/(?:tuxpaint/stamps/({stamp}|.+\.txt)|doc/[^/]+/(copyright))")
    found = False
    try:
        with _tar(deb) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in tqdm(archive, desc="unpack", unit="file", disable=not progress):
                match = wanted.fullmatch(member.name)
                content = archive.extractfile(member) if match and member.isfile() else None
                if match is None or content is None:
                    continue
                path = folder / (match[1] or match[2])
                if not path.resolve().is_relative_to(folder.resolve()):
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
                found |= re.fullmatch(stamp, match[1] or "") is not None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UserError(f"{deb}: no Debian package that can be read ({error})") from error
    except FileNotFoundError as error:
        raise UserError(f"{deb}: no such file") from error
    if not found:
        raise UserError(f"{deb}: has no {what}; {PACKAGE} is the package that does ({WHERE})")


@contextmanager
def _tar(deb: Path) -> Iterator[IO[bytes]]:
    """The archive of files in a package: by ``dpkg-deb``, which knows every compression, or else by what Python has."""
    with deb.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("not an ar archive")
        if shutil.which("dpkg-deb"):
            done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True)
            if done.returncode:
                raise ValueError(done.stderr.decode(errors="replace").strip())
            yield io.BytesIO(done.stdout)
            return
        while header := file.read(60):
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                if name.endswith(".zst"):
                    raise ValueError("zstd needs dpkg-deb; Debian's own package is packed with xz")
                yield file
                return
            file.seek(size + size % 2, os.SEEK_CUR)
        raise ValueError("no data.tar in it")


def stamps(folder: Path, progress: bool = False) -> tuple[list[Stamp], dict[str, int]]:
    """What is usable below a folder of stamps, by path, and how many were left out for which reason.

    Raises:
        UserError: if a picture cannot be read.
    """
    left = {"no caption": 0, "glyph or coin": 0, "same picture": 0, "same caption": 0}
    kept: dict[str, Stamp] = {}
    pixels: set[bytes] = set()
    for path in tqdm(sorted(folder.rglob("*.png")), desc="tuxpaint", unit="stamp", disable=not progress):
        image, text = path.relative_to(folder).as_posix(), path.with_suffix(".txt")
        lines = text.read_text(encoding="utf-8-sig", errors="replace").splitlines() if text.is_file() else []
        caption = " ".join(lines[0].split()) if lines else ""
        if not caption or "=" in caption.split()[0]:
            left["no caption"] += 1
            continue
        if GLYPHS.match(image):
            left["glyph or coin"] += 1
            continue
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGBA")
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: damaged picture ({error})") from error
        picture.thumbnail((SIDE, SIDE))
        if picture.tobytes() in pixels:
            left["same picture"] += 1
            continue
        pixels.add(picture.tobytes())
        parts = image.split("/")[:-1]
        drawn = "cartoon" in parts or parts[:1] == ["symbols"] or flatness(picture) >= FLAT
        group = "/".join(part for part in parts if part not in ("cartoon", "toys"))
        stamp = Stamp(image, caption, group, "drawing" if drawn else "photo", picture)
        known = kept.setdefault(caption.casefold(), stamp)
        if known is not stamp:
            left["same caption"] += 1
            if (known.source, stamp.source) == ("drawing", "photo"):
                kept[caption.casefold()] = stamp
    return sorted(kept.values(), key=lambda stamp: stamp.image), left


def flatness(picture: Image.Image) -> float:
    """Share of opaque pixels of an RGBA picture that are, to one level of 255, as the opaque pixel on their left.

    Photos have grain, areas of a drawing have none. 1 where no two opaque pixels are side by side.
    """
    pixels = np.asarray(picture).astype(np.int16)
    opaque = pixels[..., 3] > 250
    pairs = opaque[:, 1:] & opaque[:, :-1]
    same = np.abs(np.diff(pixels[..., :3], axis=1)).max(axis=-1) <= 1
    return float(same[pairs].mean()) if pairs.any() else 1.0


def build(raw: Path, folder: Path, package: str, progress: bool = False) -> None:
    """Write the corpus from an unpacked package: table, pictures, licence."""
    kept, left = stamps(raw, progress)
    folder.mkdir(parents=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "caption", "split", "group", "source"])
        for stamp in kept:
            image = f"pictures/{stamp.image}"
            table.writerow([image, stamp.caption, "test", stamp.group, stamp.source])
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            stamp.picture.save(folder / image)
    if (raw / "copyright").is_file():
        shutil.copyfile(raw / "copyright", folder / "copyright")
    photos = sum(stamp.source == "photo" for stamp in kept)
    (folder / "README.txt").write_text(
        f"""Stamps of Tux Paint, prepared by indattn.

Source: Debian package {PACKAGE}
        {package}
        {PACKAGE}, {WHERE}; upstream https://tuxpaint.org/stamps/
Licence: GNU General Public License, version 2 (see the file copyright).
Copyright 2002-2022 Bill Kendrick and the contributors to Tux Paint stamps.
Changed: reduced to at most {SIDE} pixels on the longer side; captions are the English ones alone.

{len(kept)} pictures: {photos} photos, {len(kept) - photos} drawings.
Left out: {", ".join(f"{count} {reason}" for reason, count in left.items())}.
""",
        encoding="utf-8",
    )
