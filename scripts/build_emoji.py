"""Build the emoji corpus again from the packages it comes from: ``indattn/data/emoji``, byte for byte.

    pip install resvg-py==0.5.0 pillow==13.0.0 numpy tqdm
    python scripts/build_emoji.py            # into indattn/data/emoji
    python scripts/build_emoji.py --check    # into a temporary folder, and compare with what is shipped

The packages are fetched with ``npm pack`` (or read from ``--packages FOLDER``, where an earlier ``npm pack`` left them)
and must have the hash named below. About two minutes on one core; 16 MB to fetch.

Drawings are rendered at their final size by resvg without fonts (no drawing has text in it),
laid on white, and reduced to 255 colours a sheet and white. Sums are of integers, files have no time stamps, and the
versions that decide bytes are checked before anything starts. On a processor of another kind the PNG encoder may pack
the same pixels otherwise: the manifest therefore has a hash of the pixels too, and ``--check`` tells the two apart.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from indattn.data.emoji import ARTISTS, COLUMNS, FIELDS, SIZES, SPLITS, load_emoji, near_identical, sheet_drawings  # noqa: E402

PINS = {"resvg-py": "0.5.0", "pillow": "13.0.0"}

# part -> npm package, version, SHA-512 as the registry states it, licence, author
SOURCES = {
    "noto": (
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        "Google Inc",
    ),
    "twemoji": (
        "@iconify-json/twemoji",
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        "Twitter",
    ),
    "openmoji": (
        "@iconify-json/openmoji",
        "1.2.29",
        "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0",
        "OpenMoji",
    ),
    "fluent": (
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        "Microsoft Corporation",
    ),
    "texts": (
        "cldr-annotations-full",
        "48.2.0",
        "sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
        "Unicode-3.0",
        "The Unicode Consortium",
    ),
    # Only the texts of the licences whose packages do not carry them.
    "licences": (
        "spdx-license-list",
        "6.12.0",
        "sha512-+nUYqm3aZMSHbjsthK+i/HHI2okTElCvqwUd4k8QcSk+FTGgjq+fsdFj2wZOaX6XmR2JdWhf/NeflNnvKOjcnQ==",
        "CC0-1.0",
        "Sindre Sorhus",
    ),
}

# --- groups by name ---------------------------------------------------------------------------------------------------

# Words that do not make another picture: left out of a name, unless nothing would be left.
PEOPLE = {"man", "men", "woman", "women", "person", "people", "boy", "girl", "child"}
# fmt: off
DETAILS = {
    "red", "orange", "yellow", "green", "blue", "light", "purple", "brown", "black", "white", "grey", "pink",
    "hollow", "heavy", "large", "medium", "medium-small", "small", "old", "older", "open", "closed", "single",
    "double", "low", "high", "muted", "left", "right", "up", "down", "leftwards", "rightwards", "upwards",
    "downwards", "left-facing", "right-facing", "front-facing", "oncoming", "tilted", "horizontal", "vertical",
    "up-right", "down-right", "down-left", "up-left", "up-down", "left-right", "done", "not", "increasing",
    "decreasing", "broken", "departure", "arrival",
}
# fmt: on

# Families that are one group each; the first that matches.
FAMILIES = [
    (r"^(monkey|dog|cat|tiger|horse|cow|pig|mouse|rabbit|dragon) face$", r"\1"),
    (r"o.clock$|-thirty$", "clock face"),
    (r"\bmoon\b(?! (cake|viewing))", "moon"),
    (r"^keycap", "keycap"),
    (r"^(?!bow |heart |envelope |mobile ).*\barrows?\b", "arrow"),
    (r"check (mark|box)", "check mark"),
    (r"cross mark", "cross mark"),
    (r"question mark|exclamation mark|exclamation question", "question and exclamation mark"),
    (r"\bbutton\b|^input |^information$|^circled M$", "button"),
    (r"\b(square|circle|triangle)\b", "plain shape"),
    (r"\bdiamond$", "diamond"),
    (
        r"^(Aries|Taurus|Gemini|Cancer|Leo|Virgo|Libra|Scorpio|Sagittarius|Capricorn|Aquarius|Pisces|Ophiuchus)$",
        "zodiac",
    ),
    (r"^(?!anatomical |smiling face).*\bhearts?$|^heart (suit|on fire|with arrow|with ribbon)$", "heart"),
    (r"mailbox", "mailbox"),
    (r"speaker", "speaker"),
    (r"^globe", "globe"),
    (r"\bmedal$", "medal"),
    (r"banknote", "banknote"),
    (r"^((wo)?men.s room|restroom)$", "restroom"),
    (r"^(prince|princess|person with crown)$", "person with crown"),
    (r"^mer(person|man|maid)$", "merperson"),
    (r"Claus$", "Santa Claus"),
    (r"^pregnant", "pregnant"),
    (r"breast-feeding|feeding baby", "feeding baby"),
    (r"-no-evil", "no evil monkey"),
    (r"\bcat$|\bcat with", "cat"),
    (r"^(?!red ).*envelope|^e-mail$|^love letter$", "envelope"),
    (r"\bcloud\b", "cloud"),
    (r"^(closed )?umbrella", "umbrella"),
    (r"chick$", "chick"),
    (r"index pointing", "index pointing"),
    (r"^(person|man|woman)(: .*)?$|^(older person|old man|old woman|boy|girl|child)$", "person"),
    (r"^no (?!entry)|^prohibited$|^non-potable", "prohibition sign"),
    (r"locked", "lock"),
    (r"snowman", "snowman"),
    (r"\bchart\b", "chart"),
    (r"wheelchair", "wheelchair"),
    (r"headscarf|skullcap|turban", "head covering"),
    (r"notebook|ledger|\bbooks?$", "book"),
    (r"^police car light$", "police car light"),
]


def name_group(name: str) -> str:
    """The group of a concept by its name alone."""
    for pattern, group in FAMILIES:
        found = re.search(pattern, name)
        if found:
            return found.expand(group)
    words = [word for word in re.sub(r"[:,]", "", name).lower().split() if word not in PEOPLE]
    words = [word for word in words if word not in DETAILS] or words
    return " ".join(word[:-1] if len(word) > 3 and re.search(r"[^su]s$", word) else word for word in words)


def joined(labels: list[str], near: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,) group numbers: concepts with one label, or near-identical, or joined through others, have one number."""
    parent = list(range(len(labels)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    pairs = [(i, first.setdefault(label, i)) for i, label in enumerate(labels)]
    for i, j in [*pairs, *((int(i), int(j)) for i, j in np.argwhere(np.triu(near, 1)))]:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    number: dict[int, int] = {}
    return np.array([number.setdefault(root(i), len(number)) for i in range(len(labels))], np.int64)


LARGEST_HELD_OUT = 12
"""Concepts in the largest group that validation or test may have: one picture family must not be a third of a score."""


def split_groups(groups: NDArray[np.int64], codepoints: list[str]) -> list[str]:
    """The split of each concept: 15% test, 15% validation, the rest training; groups in the order of a hash."""
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    order = sorted(members, key=lambda rows: hashlib.sha256(codepoints[rows[0]].encode()).hexdigest())
    splits = ["train"] * len(groups)
    for split in ("test", "validation"):
        room = round(0.15 * len(groups))
        for rows in order:
            if splits[rows[0]] == "train" and len(rows) <= min(LARGEST_HELD_OUT, room):
                room -= len(rows)
                for row in rows:
                    splits[row] = split
    return splits


# --- sources ----------------------------------------------------------------------------------------------------------


def check_versions() -> None:
    """Stop unless the packages whose version decides the bytes have the pinned one."""
    for package, version in PINS.items():
        try:
            have = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            have = "none"
        if have != version:
            wanted = " ".join(f"{name}=={pin}" for name, pin in PINS.items())
            sys.exit(f"build_emoji: {package} {version} is needed, not {have}: pip install {wanted}")


class Package:
    """Files of an npm package, read from its tarball once the hash is right."""

    def __init__(self, part: str, folder: Path) -> None:
        self.part = part
        self.name, self.version, self.integrity, self.licence, self.author = SOURCES[part]
        path = folder / f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"
        if not path.is_file():
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{self.name}@{self.version}"]
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            except FileNotFoundError:
                sys.exit("build_emoji: npm is needed to fetch the packages: install it, or give --packages FOLDER")
            if done.returncode or not path.is_file():
                sys.exit(f"build_emoji: npm pack {self.name}@{self.version} failed: {done.stderr.strip()[-300:]}")
        self.content = path.read_bytes()
        if self.integrity != "sha512-" + base64.b64encode(hashlib.sha512(self.content).digest()).decode():
            sys.exit(f"build_emoji: {path.name} is not the package this corpus is built from (its SHA-512 differs)")

    def files(self, *names: str) -> list[str]:
        """The text of some files, by path within the package."""
        with tarfile.open(fileobj=io.BytesIO(self.content), mode="r:gz") as archive:
            members = [archive.extractfile(f"package/{name}") for name in names]
            return [member.read().decode() for member in members if member is not None]

    def entry(self) -> dict[str, str]:
        """What the manifest says of it."""
        return {
            "package": f"npm {self.name}",
            "version": self.version,
            "integrity": self.integrity,
            "licence": self.licence,
            "author": self.author,
        }


def character(text: str) -> str:
    """Hexadecimal code points joined by ``-``, without the variation selector, which the artists use differently."""
    return "-".join(point for point in text.split("-") if point != "fe0f")


class Artist:
    """An artist's drawings as SVG, by character."""

    def __init__(self, package: Package) -> None:
        characters, icons = (json.loads(text) for text in package.files("chars.json", "icons.json"))
        self.slugs = {character(points): slug for points, slug in characters.items()}
        self.icons = icons

    def svg(self, points: str, size: int) -> str:
        """A drawing, fitted into a square of ``size`` pixels."""
        slug, icons = self.slugs[points], self.icons
        while slug not in icons["icons"]:
            alias = icons["aliases"][slug]
            if set(alias) != {"parent"}:
                raise ValueError(f"{slug}: a turned or mirrored copy is not handled")
            slug = alias["parent"]
        icon: dict[str, Any] = {"left": 0, "top": 0, "width": icons["width"], "height": icons["height"]}
        icon.update(icons["icons"][slug])
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" '
            f'viewBox="{icon["left"]} {icon["top"]} {icon["width"]} {icon["height"]}">{icon["body"]}</svg>'
        )


def concepts(texts: Package, artists: Iterable[Artist]) -> list[tuple[str, str, str]]:
    """(code points, name, keywords) of every character that all artists and the annotations have, in CLDR's order."""
    (text,) = texts.files("annotations/en/annotations.json")
    annotations = json.loads(text)["annotations"]["annotations"]
    found = []
    for characters, entry in annotations.items():
        points = character("-".join(f"{ord(symbol):04x}" for symbol in characters))
        if all(points in artist.slugs for artist in artists):
            keywords = sorted(entry.get("default", []))
            if any("," in keyword for keyword in keywords):
                raise ValueError(f"{points}: a comma in a keyword")
            found.append((points, entry["tts"][0], ", ".join(keywords)))
    return found


# --- pictures ---------------------------------------------------------------------------------------------------------


def render(svg: str, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) RGB, on white."""
    import resvg_py

    with Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(np.uint32)
    if pixels.shape != (size, size, 4):
        raise ValueError(f"rendered at {pixels.shape}, not at {size}")
    alpha = pixels[..., 3:]
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def palette_sheet(drawings: NDArray[np.uint8]) -> bytes:
    """A PNG of all drawings, :data:`COLUMNS` a row, in 255 colours and white.

    The colours are chosen from what is not white only, so white stays exactly white.
    """
    count, size = drawings.shape[:2]
    lines = -(-count // COLUMNS)
    tiles = np.full((lines * COLUMNS, size, size, 3), 255, np.uint8)
    tiles[:count] = drawings
    sheet = tiles.reshape(lines, COLUMNS, size, size, 3).swapaxes(1, 2).reshape(lines * size, COLUMNS * size, 3)
    ink = (sheet != 255).any(axis=2)
    reduced = Image.fromarray(sheet[ink][:, None]).quantize(
        255, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
    )
    colours = (reduced.getpalette("RGB") or [])[: 255 * 3]
    indices = np.zeros(ink.shape, np.uint8)
    indices[ink] = np.asarray(reduced)[:, 0] + 1
    image = Image.frombytes("P", sheet.shape[1::-1], indices.tobytes())
    image.putpalette([255, 255, 255, *colours])  # index 0 is white
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return packed.getvalue()


# --- what is written --------------------------------------------------------------------------------------------------

NOTICE = """\
The emoji corpus: who made its parts, and under which licence each part is
==========================================================================

Each file is under the licence of the part it belongs to, not under the licence of the rest of this package. The parts
only lie side by side in one folder: none is derived from another. The licence texts are in this folder.

noto-32.png, noto-48.png
    Noto Emoji. Copyright Google Inc. Licensed under the Apache License, Version 2.0 (Apache-2.0.txt).
    {noto_url}
    Taken from npm {noto}.
    Changed: {changes}

twemoji-32.png, twemoji-48.png
    Twemoji (Twitter Emoji). Copyright Twitter, Inc and other contributors.
    Licensed under Creative Commons Attribution 4.0 International, CC BY 4.0 (CC-BY-4.0.txt).
    {twemoji_url}
    Taken from npm {twemoji}.
    Changed: {changes}

openmoji-32.png, openmoji-48.png
    All emojis designed by OpenMoji, the open-source emoji and icon project.
    Licensed under Creative Commons Attribution-ShareAlike 4.0 International, CC BY-SA 4.0 (CC-BY-SA-4.0.txt).
    {openmoji_url}
    Taken from npm {openmoji}.
    Changed: {changes}
    These two sheets are works derived from OpenMoji and are themselves under CC BY-SA 4.0: whoever passes them on,
    changed or not, does so under that licence.

fluent-32.png, fluent-48.png
    Fluent Emoji (flat style). Copyright (c) Microsoft Corporation. Licensed under the MIT License (MIT.txt).
    {fluent_url}
    Taken from npm {fluent}.
    Changed: {changes}

concepts.csv: code points, names and keywords
    Unicode CLDR, English annotations. Copyright (c) Unicode, Inc. Licensed under the Unicode License v3
    (Unicode-3.0.txt).
    Taken from npm {texts}.
    Changed: only the characters drawn by all four artists; columns for row, group and split added.

The texts of Apache-2.0, CC-BY-4.0, CC-BY-SA-4.0 and MIT were taken from npm {licences} (CC0-1.0),
that of Unicode-3.0 from the package of the annotations.
"""

CHANGES = (
    "a selection of the drawings, rasterised at 32 and 48 pixels on white and laid out as one sheet;\n"
    "    palette reduced to 256 colours."
)


def licence_texts(packages: dict[str, Package]) -> dict[str, str]:
    """The files of the licence folder, by name."""
    parts = [*ARTISTS, "texts"]
    names = [packages[artist].licence for artist in ARTISTS]
    texts = {}
    for name, text in zip(names, packages["licences"].files(*(f"licenses/{n}.json" for n in names)), strict=True):
        texts[f"{name}.txt"] = json.loads(text)["licenseText"]
    texts["MIT.txt"] = texts["MIT.txt"].replace("<year> <copyright holders>", "Microsoft Corporation.")
    texts["Unicode-3.0.txt"] = packages["texts"].files("LICENSE")[0]
    fields = {part: f"{packages[part].name} {packages[part].version}" for part in [*parts, "licences"]}
    for artist in ARTISTS:
        information = json.loads(packages[artist].files("info.json")[0])
        if information["license"]["spdx"] != packages[artist].licence:
            raise ValueError(f"{artist}: the package states another licence than this script")
        fields[f"{artist}_url"] = information["author"]["url"]
    texts["NOTICE.txt"] = NOTICE.format(changes=CHANGES, **fields)
    return {f"LICENSES/{name}": f"{text.strip()}\n" for name, text in sorted(texts.items())}


def table(rows: Iterable[tuple[Any, ...]]) -> str:
    """``concepts.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(rows)
    return text.getvalue()


def pixels_hash(sheet: bytes) -> str:
    """SHA-256 of a sheet's RGB pixels, row by row: the same however the PNG is packed."""
    with Image.open(io.BytesIO(sheet)) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def build(folder: Path, downloads: Path) -> None:
    """Write the whole corpus into ``folder``."""
    packages = {
        part: Package(part, downloads) for part in tqdm(SOURCES, desc="packages", unit="package", dynamic_ncols=True)
    }
    artists = {name: Artist(packages[name]) for name in ARTISTS}
    found = concepts(packages["texts"], artists.values())
    files: dict[str, bytes] = {}
    with tqdm(total=len(SIZES) * len(ARTISTS) * len(found), desc="drawings", unit="drawing", dynamic_ncols=True) as bar:
        for size in SIZES:
            for name, artist in artists.items():
                drawings = []
                for points, _, _ in found:
                    drawings.append(render(artist.svg(points, size), size))
                    bar.update()
                bar.set_postfix_str(f"packing {name}-{size}.png")
                files[f"{name}-{size}.png"] = palette_sheet(np.stack(drawings))

    # Groups are made from the pictures that are shipped, colours reduced; so a test can make the comparison again.
    near = np.zeros((len(found), len(found)), np.bool_)
    for size in SIZES:
        sheets = [sheet_drawings(files[f"{name}-{size}.png"], len(found), size) for name in ARTISTS]
        near |= near_identical(np.stack(sheets, axis=1))
    labels = [name_group(name) for _, name, _ in found]
    groups = joined(labels, near)
    splits = split_groups(groups, [points for points, _, _ in found])
    rows = [
        (row, points, name, keywords, group, split)
        for row, ((points, name, keywords), group, split) in enumerate(zip(found, groups, splits, strict=True))
    ]
    files["concepts.csv"] = table(rows).encode()
    files.update((name, text.encode()) for name, text in licence_texts(packages).items())

    sizes = Counter(groups.tolist())
    by_split = Counter(splits)
    manifest = {
        "concepts": len(found),
        "artists": list(ARTISTS),
        "sizes": list(SIZES),
        "columns": COLUMNS,
        "groups": {"by_name": len(set(labels)), "by_name_and_picture": len(sizes), "largest": max(sizes.values())},
        "splits": {
            split: {
                "concepts": by_split[split],
                "groups": len({group for group, own in zip(groups.tolist(), splits, strict=True) if own == split}),
            }
            for split in SPLITS
        },
        "sources": {part: package.entry() for part, package in packages.items()},
        "renderer": {
            **{package: importlib.metadata.version(package) for package in PINS},
            "resvg": resvg_version(),
        },
        "files": {name: file_entry(name, content) for name, content in sorted(files.items())},
    }
    files["manifest.json"] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def file_entry(name: str, content: bytes) -> dict[str, Any]:
    """What the manifest says of a file."""
    entry: dict[str, Any] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    if name.endswith(".png"):
        entry["pixels_sha256"] = pixels_hash(content)
    return entry


def resvg_version() -> str:
    """Version of the rendering library itself."""
    import resvg_py

    return str(resvg_py.__resvg_version__)


def compare(built: Path, shipped: Path) -> int:
    """Print what differs; 0 when nothing does."""
    names = sorted({path.relative_to(base).as_posix() for base in (built, shipped) for path in base.rglob("*.*")})
    wrong = 0
    for name in names:
        pair = [(base / name).read_bytes() if (base / name).is_file() else None for base in (built, shipped)]
        if pair[0] == pair[1]:
            continue
        wrong += 1
        same = name.endswith(".png") and None not in pair and pixels_hash(pair[0] or b"") == pixels_hash(pair[1] or b"")
        print(f"{name}: {'same pixels, packed otherwise' if same else 'differs'}")
    print(f"{len(names)} files, {wrong} differ")
    return int(bool(wrong))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Build the emoji corpus again from the packages it comes from.")
    parser.add_argument("--check", action="store_true", help="compare with what is shipped, change nothing")
    parser.add_argument("--packages", type=Path, help="folder with the packages' tarballs; missing ones are fetched")
    parser.add_argument("--output", type=Path, default=ROOT / "indattn" / "data" / "emoji")
    arguments = parser.parse_args()
    check_versions()
    with tempfile.TemporaryDirectory() as temporary:
        downloads = arguments.packages or Path(temporary) / "packages"
        downloads.mkdir(parents=True, exist_ok=True)
        folder = Path(temporary) / "emoji" if arguments.check else arguments.output
        folder.mkdir(parents=True, exist_ok=True)
        build(folder, downloads.resolve())
        load_emoji(folder=folder)
        return compare(folder, arguments.output) if arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
