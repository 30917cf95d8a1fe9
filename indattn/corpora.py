"""`indattn data`: the corpora there are, preparing one, checking one's own pictures or speech, features."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from indattn.data.emoji import emoji_folder
from indattn.data.pairs import CORPORA, SPLITS, Pairs, load_pairs
from indattn.data.speech import human
from indattn.data.speech.clips import clips_folder, load_clips, prepare_clips
from indattn.data.speech.corpus import SpeechCorpus
from indattn.data.speech.features import FRAME
from indattn.data.speech.load import SPEECH, prepare_speech, speech_place
from indattn.data.speech.own import has_speech, own_speech
from indattn.data.speech.store import Stored, read_corpus
from indattn.data.tuxpaint import prepare, tuxpaint_folder
from indattn.errors import UserError, nearest
from indattn.tables import check_format, print_table

__all__ = ["counts", "run", "speech_counts"]

#: Folder, licence, and how one that is not there is got.
KNOWN = {
    "emoji": (emoji_folder, "Apache-2.0, CC-BY-4.0, CC-BY-SA-4.0, MIT, Unicode-3.0", None),
    "tuxpaint": (tuxpaint_folder, "GPL-2", "indattn data prepare tuxpaint"),
}
COLUMNS = ["corpus", "pictures", "texts", "utterances", "hours", *SPLITS, "megabytes", "licence", "state", "folder"]


def run(config: DictConfig) -> None:
    """The verb ``data``."""
    check_format(config.format)
    if config.progress not in ("auto", True, False):
        raise UserError(f"progress={config.progress}: must be auto, true or false")
    progress = sys.stderr.isatty() if config.progress == "auto" else config.progress
    words = [str(word) for word in config.data] if isinstance(config.data, ListConfig) else [str(config.data)]
    if not words:
        rows = [*map(row, CORPORA), *map(speech_row, SPEECH)]
        print_table(rows, COLUMNS, config.format, title="Items are concepts, pictures or utterances")
        return
    verb, *rest = words
    if verb not in VERBS:
        raise UserError(f"data {verb!r}: no such thing to do{nearest(verb, VERBS)}")
    work, takes = VERBS[verb]
    if len(rest) != 1:
        raise UserError(f"data {verb}: takes one {takes}, got {len(rest)}")
    work(rest[0], config, progress)


def row(name: str) -> dict[str, Any]:
    """A corpus in one line: its items by split, what it takes on disk, where."""
    folder_of, licence, how = KNOWN[name]
    folder = folder_of()
    line: dict[str, Any] = {"corpus": name, "licence": licence, "folder": str(folder)}
    if not folder.is_dir():
        return {**line, "state": f"to get: {how}"}
    try:
        pairs = load_pairs(name)
    except UserError:
        return {**line, "state": f"damaged: {how} force=true" if how else "damaged: install the package again"}
    return {
        **line,
        "pictures": len(pairs.images),
        "texts": len(pairs.texts),
        **{split: len(pairs.items(split)) for split in SPLITS},
        "megabytes": round(_bytes(folder) / 1e6, 1),
        "state": "prepared" if how else "shipped",
    }


def speech_row(name: str) -> dict[str, Any]:
    """A corpus of speech in one line."""
    line: dict[str, Any] = {"corpus": name, "licence": SPEECH[name].licence}
    how = f"indattn data features {name}"
    try:
        folder = speech_place(name)
    except UserError:
        return {**line, "state": f"to make: pip install 'indattn[{SPEECH[name].extras}]'"}
    line["folder"] = str(folder)
    if not folder.is_dir():
        return {**line, "state": f"to make: {how}"}
    try:
        speech = read_corpus(folder)
    except UserError:
        return {**line, "state": f"damaged: {how}"}
    return {
        **line,
        "utterances": len(speech),
        "hours": round(speech.seconds() / 3600, 2),
        **{split: len(speech.rows(split)) for split in SPLITS},
        "megabytes": round(_bytes(folder) / 1e6, 1),
        "state": "prepared",
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def prepare_corpus(name: str, config: DictConfig, progress: bool) -> None:
    """Get a corpus that is not shipped, once."""
    if name == "emoji":
        print("emoji: shipped, nothing to prepare")
        return
    if name not in TO_GET:
        raise UserError(f"data prepare {name}: no such corpus{nearest(name, [*KNOWN, *TO_GET])}")
    folder_of, get, content = TO_GET[name]
    if folder_of().is_dir() and not config.force:
        print(f"{folder_of()}: there already (force=true prepares it anew)")
    else:
        print(f"{get(config.file, progress)}: {content()}; see README.txt in it")
    if name == "human":
        print_speech(lambda: human.prepare(progress))


TO_GET: dict[str, tuple[Callable[[], Path], Callable[[str | None, bool], Path], Callable[[], str]]] = {
    "tuxpaint": (
        tuxpaint_folder,
        lambda file, progress: prepare(file, progress),
        lambda: f"{len(load_pairs('tuxpaint').images)} pictures with captions",
    ),
    "human": (
        clips_folder,
        lambda file, progress: prepare_clips(file, progress),
        lambda: f"{len(load_clips())} recordings with captions",
    ),
}
"""What is not shipped: its folder, what gets it, what is in it."""


def check_corpus(data: str, config: DictConfig, progress: bool) -> None:
    """Load a corpus, read every picture or recording of it, print what is in it; a folder of sounds is speech.

    Of human speech joined to utterances, what tells its boundaries.
    """
    if data == "human":
        return check_human(config, progress)
    if data not in CORPORA and not Path(data).exists():
        raise UserError(f"{data}: no such file or folder")
    splits = [config.splits] if isinstance(config.splits, str) else list(config.splits or [])
    for split in splits:
        if split not in SPLITS:
            raise UserError(f"splits={split}: no such split{nearest(str(split), SPLITS)}")
    if data not in CORPORA and has_speech(data):
        speech = own_speech(
            data,
            config.language,
            config.grids,
            config.words,
            config.phones,
            partial=config.partial,
            needed=splits,
            samples=(),
            progress=progress,
            cache=False,
        )
        rows = speech_counts(speech)
        print_table(rows, list(rows[0]), config.format, title=f"{speech.name}: every recording can be read")
        return
    pairs = load_pairs(data, config.images, needed=splits)
    for picture in tqdm(range(len(pairs.images)), desc=pairs.name, unit="picture", disable=not progress):
        pairs.images.read([picture], 32)
    rows = counts(pairs)
    print_table(rows, list(rows[0]), config.format, title=f"{pairs.name}: every picture can be read")


def check_human(config: DictConfig, progress: bool) -> None:
    """Print what sound alone tells of the boundaries of human speech."""
    from indattn.data.speech.leaks import check  # imports torch
    from indattn.environment import set_threads

    set_threads(1)  # small networks: more threads only wait for each other
    rows = check(progress)
    columns = list(dict.fromkeys(column for line in rows for column in line))
    print_table(rows, columns, config.format, title="What sound alone tells of the boundaries of human speech")


def make_features(data: str, config: DictConfig, progress: bool) -> None:
    """Compute a corpus's features, or find them there, and print how much that is; speech is made by it."""
    if data in SPEECH:
        return make_speech(data, progress)
    from indattn.data.frozen import frozen_features  # imports torch
    from indattn.environment import set_threads

    if data not in CORPORA and not Path(data).exists():
        raise UserError(f"{data}: no such corpus, file or folder{nearest(data, [*CORPORA, *SPEECH])}")
    pairs = load_pairs(data, config.images, needed=())
    set_threads("auto")
    began = time.perf_counter()
    features = frozen_features(pairs, progress)
    seconds = time.perf_counter() - began
    print(
        f"{features.folder}: {'made' if features.made else 'there already, checked'} in {seconds:.1f} s: "
        f"{len(pairs.images):,} pictures, {len(pairs.texts):,} texts of {features.text_starts[-1]:,} tokens, "
        f"{_bytes(features.folder) / 1e6:.1f} MB"
    )


def make_speech(name: str, progress: bool) -> None:
    """Make a corpus of speech with its features, or find it there."""
    print_speech(lambda: prepare_speech(name, progress))


def print_speech(make: Callable[[], Stored]) -> None:
    """Make a corpus of speech and print how much that is."""
    began = time.perf_counter()
    found = make()
    seconds = time.perf_counter() - began
    speech = found.corpus
    print(
        f"{found.folder}: {'made' if found.made else 'there already, checked'} in {seconds:.1f} s: "
        f"{len(speech):,} utterances, {speech.seconds() / 3600:.2f} hours, {len(speech.segments):,} {speech.unit}s, "
        f"{len(np.unique(speech.voices)):,} voices, {_bytes(found.folder) / 1e6:.1f} MB"
    )


VERBS: dict[str, tuple[Callable[[str, DictConfig, bool], None], str]] = {
    "prepare": (prepare_corpus, "corpus"),
    "check": (check_corpus, "path"),
    "features": (make_features, "corpus or path"),
}
"""What can be done with a corpus: by which function, and what it takes."""


def counts(pairs: Pairs) -> list[dict[str, Any]]:
    """Counts of each split: items, their pictures and texts, the groups and sources these are of."""
    return [
        {
            "split": split,
            "items": len(items := pairs.items(split)),
            "pictures": int(np.isin(pairs.image_items, items).sum()),
            "texts": int(np.isin(pairs.text_items, items).sum()),
            "groups": len(np.unique(pairs.groups[items])),
            "sources": len(np.unique(pairs.image_sources[np.isin(pairs.image_items, items)])),
        }
        for split in SPLITS
    ]


def speech_counts(speech: SpeechCorpus) -> list[dict[str, Any]]:
    """Counts of each split: utterances, their words and minutes, who speaks."""
    frames, words = np.diff(speech.frame_starts), np.diff(speech.segment_starts)
    return [
        {
            "split": split,
            "utterances": len(rows := speech.rows(split)),
            f"{speech.unit}s": int(words[rows].sum()),
            "minutes": round(float(frames[rows].sum()) * FRAME / 60, 2),
            "voices": len(np.unique(speech.voices[rows])),
        }
        for split in SPLITS
    ]
