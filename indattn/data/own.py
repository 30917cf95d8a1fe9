"""Your own pictures and texts, from a folder, a CSV or Parquet file, or a Karpathy-style JSON file.

**Folder**: pictures at any depth, each with a text file of the same stem beside it, one caption a line
(``birds/crow.jpg`` and ``birds/crow.txt``). Other text files are left alone. Where the folder has a ``captions.csv`` or
``captions.parquet``, that is read instead.

**CSV** (UTF-8, commas) or **Parquet** (``pip install 'indattn[parquet]'``), a row a caption, as many rows a picture as
it has captions; other columns are ignored:

=============================  =======================================================================================
column                         what
=============================  =======================================================================================
``image``                      path of the picture, relative to the folder of pictures
``caption``                    a caption; or ``caption_1``, ``caption_2``, ..., of which some may be empty
``id`` (optional)              no two rows have the same
``split`` (optional)           ``train``, ``validation`` (or ``val``), ``test``
``group`` (optional)           pictures of one group stay in one split; an empty cell: the picture is its own group
``source`` (optional)          who made the picture
=============================  =======================================================================================

**JSON**, as A. Karpathy and L. Fei-Fei (Deep Visual-Semantic Alignments, CVPR 2015) split Flickr8k, Flickr30k and COCO:
``{"images": [{"filename", "filepath", "split", "imgid", "sentences": [{"raw", "sentid"}]}]}``. ``filepath`` is
optional; the split ``restval`` counts as ``train``.

An item is a picture with all its captions. Where nothing says how to split, the SHA-256 of the picture's relative path
(or of its group's name) does: about 70/15/15, the same on every machine.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from indattn.data.pairs import SPLITS, Pairs, resized
from indattn.errors import UserError, nearest

__all__ = ["PICTURES", "FileImages", "own_pairs", "split_of"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""Files of a folder that are pictures, in small or capital letters."""

COLUMNS = r"image|caption(_\d+)?|id|split|group|source"
"""Names of columns that are read."""

SPLIT_NAMES = {"train": "train", "restval": "train", "validation": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class FileImages:
    """Pictures in files, opened when they are read.

    Attributes:
        corpus: the file or folder that lists them, for messages.
        paths: the files.
        where: the place in ``corpus`` that lists each, for messages.
    """

    corpus: Path
    paths: tuple[Path, ...]
    where: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Sequence[int], size: int) -> NDArray[np.uint8]:
        """``(len(rows), size, size, 3)`` RGB, as :func:`~indattn.data.pairs.resized` makes them; turned upright where
        the camera says so, the first frame of several.

        Raises:
            UserError: if one cannot be read; the message names row and file.
        """
        pixels = np.empty((len(rows), size, size, 3), np.uint8)
        for i, row in enumerate(rows):
            try:
                with Image.open(self.paths[row]) as picture:
                    picture.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size
                    pixels[i] = resized(ImageOps.exif_transpose(picture), size)
            except Exception as error:  # decoders raise many kinds on a damaged file
                reason = getattr(error, "strerror", None) or ("damaged, or no picture" if not str(error) else error)
                raise UserError(
                    f"{self.corpus}: {self.where[row]}: cannot read {self.paths[row]} ({reason})"
                ) from error
        return pixels


@dataclass(frozen=True, slots=True)
class Entry:
    """What one row says about a picture."""

    where: str
    image: str
    captions: tuple[str, ...]
    split: str | None = None
    group: str = ""
    source: str = ""


def own_pairs(
    data: str | Path, images: str | Path | None = None, name: str | None = None, needed: Iterable[str] = SPLITS
) -> Pairs:
    """A corpus of one's own. Every picture must exist; none is opened yet.

    The fingerprint is of the captions and of path, size and modification time of every picture, not of its bytes:
    reading all of COCO would take minutes. A picture that is replaced counts as new, and so does one that is touched.

    Args:
        data: a folder, or a ``.csv``, ``.parquet`` or ``.json`` file; see the module for what is in it.
        images: the folder that paths of pictures are relative to; by default the one the file lies in.
        name: what the corpus is called; by default as the file or folder is, or as the JSON file says.
        needed: splits that must not be empty.

    Raises:
        UserError: if a file is missing or cannot be read, a column is missing, a caption is empty, an id is there
            twice, a split is unknown or empty, or a group or a picture is in two splits. The message names file and
            row; the first row of a table is its header.
    """
    path = Path(data)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if images is not None and not Path(images).is_dir():
        raise UserError(f"images={images}: no such folder")
    root = Path(images) if images is not None else path if path.is_dir() else path.parent
    called = path.resolve().name if path.is_dir() else path.stem
    if path.is_dir():
        tables = [
            path / f"captions{suffix}" for suffix in (".csv", ".parquet") if (path / f"captions{suffix}").is_file()
        ]
        if len(tables) > 1:
            raise UserError(f"{path}: has captions.csv and captions.parquet; name the one to read")
        path = tables[0] if tables else path
    suffix = path.suffix.lower()
    if path.is_dir():
        if images is not None:
            raise UserError(f"{path}: is a folder of pictures itself; images=FOLDER goes with a file that lists some")
        entries = _of_folder(path)
    elif suffix == ".csv":
        entries = _of_table(path, *_csv_rows(path))
    elif suffix == ".parquet":
        entries = _of_table(path, *_parquet_rows(path))
    elif suffix == ".json":
        content = _json(path)
        called = str(content.get("dataset") or called)
        entries = _of_json(path, content["images"])
    else:
        raise UserError(f"{path}: must be a folder, or a .csv, .parquet or .json file")
    return _pairs(name or called, path, root, entries, needed)


def split_of(key: str) -> str:
    """The split of a picture or group that no column gives one: by hash, about 70/15/15."""
    part = int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
    return "train" if part < 0.70 else "validation" if part < 0.85 else "test"


def _pairs(name: str, path: Path, root: Path, entries: Iterable[Entry], needed: Iterable[str]) -> Pairs:
    """Put the rows of each picture together and check that they agree."""
    first: dict[str, Entry] = {}
    numbers: dict[str, int] = {}
    texts: list[str] = []
    text_items: list[int] = []
    for entry in entries:
        image = Path(entry.image).as_posix()  # a.png and ./a.png are one picture
        known = first.setdefault(image, entry)
        for key in ("split", "group", "source"):
            one, other = getattr(known, key), getattr(entry, key)
            if one != other:
                raise UserError(f"{path}: {entry.where}: {key} of {image} is {other!r}, but {one!r} in {known.where}")
        item = numbers.setdefault(image, len(numbers))
        texts += entry.captions
        text_items += [item] * len(entry.captions)
    if not first:
        raise UserError(f"{path}: no picture in it")

    digest = hashlib.sha256(json.dumps([texts, text_items]).encode())
    paths = []
    for image, entry in first.items():
        paths.append(root / image)
        try:
            state = os.stat(paths[-1])
        except (OSError, ValueError):
            state = None
        if state is None or not stat.S_ISREG(state.st_mode):
            hint = "images=FOLDER says what paths are relative to"
            raise UserError(f"{path}: {entry.where}: no picture {paths[-1]}; {hint}")
        digest.update(f"{image}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogatepass"))

    splits: list[str] = []
    groups: dict[tuple[str, str], int] = {}
    sources: dict[str, int] = {}
    image_groups, image_sources = [], []
    of_group: dict[int, Entry] = {}
    for image, entry in first.items():
        group = groups.setdefault(("group", entry.group) if entry.group else ("image", image), len(groups))
        one = of_group.setdefault(group, entry)
        if one.split != entry.split:
            message = f"group {entry.group!r} is in split {entry.split!r}, but in {one.split!r} in {one.where}"
            raise UserError(f"{path}: {entry.where}: {message}")
        splits.append(split_of(entry.group or image) if entry.split is None else entry.split)
        image_groups.append(group)
        image_sources.append(sources.setdefault(entry.source or name, len(sources)))
    for split in needed:
        if split not in splits:
            counts = ", ".join(f"{splits.count(one)} {one}" for one in SPLITS)
            raise UserError(
                f"{path}: no picture in split {split!r} ({counts}); a table with a column 'split' can put some there"
            )
    return Pairs(
        name=name,
        images=FileImages(path, tuple(paths), tuple(entry.where for entry in first.values())),
        texts=tuple(texts),
        image_items=np.arange(len(first), dtype=np.int64),
        text_items=np.array(text_items, np.int64),
        image_sources=np.array(image_sources, np.int64),
        sources=tuple(sources),
        groups=np.array(image_groups, np.int64),
        splits=np.array(splits),
        fingerprint=digest.hexdigest(),
    )


def _of_folder(folder: Path) -> Iterator[Entry]:
    """A picture and the text file beside it."""
    owners: dict[Path, Path] = {}
    for picture in sorted(folder.rglob("*")):
        if picture.suffix.lower() not in PICTURES or picture.name.startswith(".") or not picture.is_file():
            continue
        image, text = picture.relative_to(folder), picture.with_suffix(".txt")
        if text in owners:
            raise UserError(f"{folder}: {owners[text]} and {image} share one text, {text.name}")
        owners[text] = image
        if not text.is_file():
            raise UserError(f"{folder}: {image} has no text: {text} is missing")
        captions = tuple(filter(None, map(str.strip, _text(text).splitlines())))
        if not captions:
            raise UserError(f"{folder}: {image.with_suffix('.txt')} is empty: it must have a caption a line")
        yield Entry(image.as_posix(), image.as_posix(), captions)


def _of_table(path: Path, header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[Entry]:
    """Rows by the names of their columns."""
    captions = sorted(
        (name for name in header if re.fullmatch(r"caption(_\d+)?", name)), key=lambda name: (len(name), name)
    )
    for column, there in (("image", "image" in header), ("caption", bool(captions))):
        if not there:
            raise UserError(f"{path}: no column {column!r}{nearest(column, header)}")
    for column in header:
        if header.count(column) > 1 and re.fullmatch(COLUMNS, column):
            raise UserError(f"{path}: two columns are called {column!r}")
    ids: dict[str, str] = {}
    for number, cells in rows:
        where = f"row {number}"
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        if not row["image"]:
            raise UserError(f"{path}: {where}: no image")
        texts = tuple(filter(None, (row[name] for name in captions)))
        if not texts:
            raise UserError(f"{path}: {where}: empty caption of {row['image']}")
        if "id" in row:
            _once(ids, path, where, "id", row["id"])
        split = _split(path, where, row["split"]) if "split" in row else None
        yield Entry(where, row["image"], texts, split, row.get("group", ""), row.get("source", ""))


def _of_json(path: Path, images: list[Any]) -> Iterator[Entry]:
    """Karpathy's format."""
    seen: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for index, image in enumerate(images):
        where = f"images[{index}]"
        try:
            filename = str(image["filename"])
            captions = tuple(str(sentence["raw"]).strip() for sentence in image["sentences"])
            ids = [str(sentence["sentid"]) for sentence in image["sentences"] if "sentid" in sentence]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: {where}: must have 'filename', and 'sentences' with 'raw' each") from error
        where = f"{where} ({filename})"
        if not captions or not all(captions):
            raise UserError(f"{path}: {where}: empty caption")
        for key in ("imgid", "cocoid"):
            if key in image:
                _once(seen[key], path, where, key, str(image[key]))
        for one in ids:
            _once(seen["sentid"], path, where, "sentid", one)
        split = _split(path, where, str(image["split"])) if "split" in image else None
        yield Entry(where, f"{image.get('filepath') or '.'}/{filename}", captions, split)


def _split(path: Path, where: str, name: str) -> str:
    if name not in SPLIT_NAMES:
        raise UserError(f"{path}: {where}: no split {name!r}{nearest(name, SPLIT_NAMES)}")
    return SPLIT_NAMES[name]


def _once(seen: dict[str, str], path: Path, where: str, what: str, value: str) -> None:
    if value in seen:
        raise UserError(f"{path}: {where}: {what} {value!r} is also that of {seen[value]}")
    seen[value] = where


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start + 1}); save it in that encoding") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(f"{path}: must be an object with a list 'images', as Karpathy's dataset_flickr30k.json")
    return content


def _csv_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header, and the other rows with their numbers in a spreadsheet; rows of empty cells are left out."""
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        number = 1
        try:
            for number, cells in enumerate(lines, start=2):
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    hint = "quotes around a caption with a comma"
                    raise UserError(f"{path}: row {number}: {len(cells)} cells, the header has {len(header)} ({hint}?)")
                yield number, cells
        except csv.Error as error:
            raise UserError(f"{path}: row {number + 1}: no CSV ({error})") from error

    try:
        header = [name.strip() for name in next(lines, [])]
    except csv.Error as error:
        raise UserError(f"{path}: row 1: no CSV ({error})") from error
    return header, rows()


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """As :func:`_csv_rows`: the first row below the header is row 2."""
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise UserError(f"{path}: reading Parquet needs pyarrow: pip install 'indattn[parquet]'") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no Parquet ({error})") from error
    header = [str(name) for name in frame.columns]

    def text(number: int, column: str, cell: Any) -> str:
        if not re.fullmatch(COLUMNS, column):
            return ""
        if not pd.api.types.is_scalar(cell) or isinstance(cell, bytes):
            raise UserError(f"{path}: row {number}: {column} must be text, is {type(cell).__name__}")
        return "" if pd.isna(cell) else str(cell)

    def rows() -> Iterator[tuple[int, list[str]]]:
        for number, row in enumerate(frame.itertuples(index=False, name=None), start=2):
            yield number, [text(number, column, cell) for column, cell in zip(header, row, strict=True)]

    return header, rows()
