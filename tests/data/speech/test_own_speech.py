"""One's own recordings: every layout, every error in one line, splits that no machine decides otherwise."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

from indattn.data.speech import own
from indattn.data.speech.corpus import SPLITS
from indattn.data.speech.features import FRAME, RATE
from indattn.data.speech.own import has_speech, own_speech
from indattn.data.speech.textgrid import write_textgrid
from indattn.errors import UserError

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("kaldi_native_fbank")
pytest.importorskip("praatio")

WORDS = [(0.1, 0.3, "She"), (0.3, 0.5, "had"), (0.6, 0.9, "it")]
IPA = [(0.1, 0.2, "ʃ"), (0.2, 0.3, "i\u02d0"), (0.3, 0.35, "h"), (0.35, 0.5, "æ"), (0.6, 0.75, "ɪ"), (0.75, 0.9, "t")]
ARPA = [
    (0.1, 0.2, "SH"),
    (0.2, 0.3, "IY1"),
    (0.3, 0.35, "HH"),
    (0.35, 0.5, "AE1"),
    (0.6, 0.75, "IH0"),
    (0.75, 0.9, "T"),
]


def sound(path, seconds=1.0, rate=RATE, level=0.1, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = level * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 300 / rate)
    soundfile.write(path, tone, rate, **more)


def recording(path, words=WORDS, phones=IPA, text=None, seconds=1.0, **more):
    """A sound file with its TextGrid and transcript."""
    sound(path, seconds, **more)
    write_textgrid(path.with_suffix(".TextGrid"), seconds, {"words": words, "phones": phones or []})
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """A recording in each split."""
    for split in SPLITS:
        recording(tmp_path / "own" / split / "anna" / "1.wav", text="She had it.")
    return tmp_path / "own"


@pytest.fixture
def rules(monkeypatch):
    """Instead of espeak-ng: letters are phones; what was asked is kept."""
    from indattn.data.speech import espeak

    asked = []

    def phones(words, language):
        asked.append((list(words), language))
        return [tuple(letter for letter in word.lower() if letter.isascii() and letter.isalpha()) for word in words]

    monkeypatch.setattr(espeak, "phones", phones)
    return asked


def refused(data, *parts, **arguments):
    with pytest.raises(UserError) as caught:
        own_speech(data, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def words_of(corpus, row=0):
    part = slice(*corpus.segment_starts[row : row + 2])
    return [
        (round(start, 5), round(end, 5), text)
        for (start, end), text in zip(corpus.segment_times[part].tolist(), corpus.segments[part].tolist(), strict=True)
    ]


# layouts -------------------------------------------------------------------------------------------------------


def test_textgrids_beside_the_recordings(folder):
    corpus = own_speech(folder)
    assert (corpus.name, corpus.unit, corpus.times) == ("own", "word", "annotation")
    assert corpus.splits.tolist() == ["test", "train", "validation"]
    assert corpus.names.tolist() == ["test/anna/1", "train/anna/1", "validation/anna/1"]
    assert set(corpus.voices) == {"anna"}
    assert [words_of(corpus, row) for row in range(3)] == [WORDS] * 3
    assert corpus.phones.tolist() == [label for *_, label in IPA] * 3
    assert corpus.token_segments.tolist() == [0, 0, 1, 1, 2, 2] * 3
    np.testing.assert_allclose(corpus.token_times, [phone[:2] for phone in IPA] * 3, atol=1e-6)
    assert corpus.frame_starts.tolist() == [0, 100, 200, 300]
    assert corpus.seconds() == pytest.approx(3.0)
    assert np.diff(corpus.sample_starts).tolist() == [RATE, 0, 0]  # those of the test split
    assert np.abs(corpus.samples).max() == pytest.approx(0.1 * 32767, abs=2)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "WAV"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_any_sound_file(tmp_path, kind, rate):
    recording(tmp_path / f"a.{kind}", rate=rate)
    corpus = own_speech(tmp_path, needed=())
    assert corpus.frame_starts[-1] == 100
    assert words_of(corpus) == WORDS


def test_librispeech_with_aligned_textgrids(tmp_path, rules):
    root, grids = tmp_path / "LibriSpeech", tmp_path / "aligned"
    for split, speaker in (("train-clean-100", "103"), ("dev-clean", "84"), ("test-other", "367")):
        chapter = f"{split}/{speaker}/1240"
        sound(root / chapter / f"{speaker}-1240-0000.flac")
        (root / chapter / f"{speaker}-1240.trans.txt").write_text(f"{speaker}-1240-0000 SHE HAD IT\n")
        words = [(start, end, text.upper()) for start, end, text in WORDS]
        phones = [(start, end, label if start < 0.6 else "spn") for start, end, label in ARPA]
        words[2] = (*words[2][:2], "<unk>")
        write_textgrid(grids / chapter / f"{speaker}-1240-0000.TextGrid", 1.0, {"words": words, "phones": phones})
    corpus = own_speech(root, grids=grids)
    assert corpus.splits.tolist() == ["validation", "test", "train"]
    assert corpus.voices.tolist() == ["84", "367", "103"]
    assert corpus.segments.tolist() == ["SHE", "HAD", "IT"] * 3
    assert corpus.phones.tolist() == ["ʃ", "i", "h", "æ", "i", "t"] * 3
    assert (
        np.isnan(corpus.token_times).all(axis=1).tolist() == [False] * 4 + [True] * 2 + ([False] * 4 + [True] * 2) * 2
    )
    assert rules == [(["she", "had", "it"], "en-us")] * 3
    (root / "dev-clean/84/1240/84-1240.trans.txt").write_text("84-1240-0001 SHE HAD IT\n")
    refused(root, "84-1240.trans.txt: has no line 84-1240-0000", grids=grids)


SA1_WORDS = "1600 4800 she\n4800 8000 had\n7200 11200 your\n11200 14400 dark\n"
PHN = (
    "0 1600 h#\n1600 3200 sh\n3200 4800 iy\n4800 5600 hv\n5600 6800 ae\n6800 7200 dcl\n7200 8000 jh\n8000 11200 axr\n"
    "11200 11400 dcl\n11400 11600 d\n11600 13000 aa\n13000 13600 r\n13600 14400 kcl\n14400 16000 h#\n"
)


def timit(root, speakers=(("TRAIN", "FCJF0"), ("TRAIN", "MDAC0"), ("TEST", "FAKS0")), words=SA1_WORDS, phones=PHN):
    for split, speaker in speakers:
        for stem in ("SA1", "SX37"):
            path = root / split / "DR1" / speaker / f"{stem}.WAV"
            sound(path, format="NIST")
            path.with_suffix(".WRD").write_text(words)
            path.with_suffix(".PHN").write_text(phones)
            path.with_suffix(".TXT").write_text("0 16000 She had your dark.\n")
    return root


def test_timit(tmp_path):
    root = timit(tmp_path / "TIMIT")
    copy = root / "TEST" / "DR1" / "FAKS0" / "SX37.WAV.wav"
    sound(copy)
    corpus = own_speech(root, needed=("test",))
    assert corpus.names.tolist() == ["TEST/DR1/FAKS0/SX37", "TRAIN/DR1/FCJF0/SX37", "TRAIN/DR1/MDAC0/SX37"]
    assert corpus.voices.tolist() == ["FAKS0", "FCJF0", "MDAC0"]
    assert corpus.splits[0] == "test"
    assert set(corpus.splits[1:]) <= {"train", "validation"}
    # The phone that two words share is the earlier one's.
    assert words_of(corpus) == [(0.1, 0.3, "she"), (0.3, 0.5, "had"), (0.5, 0.7, "your"), (0.7, 0.9, "dark")]
    assert corpus.phones[: corpus.token_starts[1]].tolist() == ["ʃ", "i", "ɦ", "æ", "dʒ", "ɚ", "d", "ɑ", "ɹ", "k"]
    assert corpus.token_times[4].tolist() == pytest.approx([6800 / RATE, 0.5])  # with its closure
    assert corpus.token_times[6].tolist() == pytest.approx([0.7, 11600 / RATE])


def test_timit_a_word_inside_another(tmp_path):
    root = timit(tmp_path, words="1600 8000 she\n4800 6400 had\n8000 11200 your\n11200 14400 dark")
    assert words_of(own_speech(root, needed=()))[:2] == [(0.1, 0.35, "she"), (0.35, 0.4, "had")]


def test_words_alone(tmp_path, rules):
    sound(tmp_path / "anna_1.wav")
    write_textgrid(tmp_path / "anna_1.TextGrid", 1.0, {"words": [*WORDS[:2], (0.5, 0.6, "<eps>"), WORDS[2]]})
    corpus = own_speech(tmp_path, language="fr", needed=())
    assert corpus.voices.tolist() == ["anna"]
    assert corpus.phones.tolist() == list("shehadit")
    assert np.isnan(corpus.token_times).all()
    assert rules == [(["She", "had", "it"], "fr")]


def test_tiers_of_other_names(folder, rules):
    for path in folder.rglob("*.TextGrid"):
        write_textgrid(path, 1.0, {"mots": WORDS, "sons": IPA})
    refused(folder, "1.TextGrid: tier 'words' is not there", "mots, sons")
    assert own_speech(folder, words="mots", phones="sons").phones[1] == "i\u02d0"
    refused(folder, "tier 'son' is not there; did you mean 'sons'", words="mots", phones="son")
    assert rules == []
    assert own_speech(folder, words="mots", phones=None).phones[1] == "h"


def test_the_engine_itself(tmp_path):
    pytest.importorskip("espeakng_loader")
    recording(tmp_path / "a.wav", phones=None)
    corpus = own_speech(tmp_path, needed=())
    assert corpus.phones[:2].tolist() == ["ʃ", "i\u02d0"]
    assert np.isnan(corpus.token_times).all()


def test_what_is_speech(folder, tmp_path):
    assert has_speech(folder)
    assert not has_speech(tmp_path / "nowhere")
    assert not has_speech(folder / "test" / "anna" / "1.wav")
    for k in range(3):
        (folder / f"{k}.png").write_bytes(b"")
    assert not has_speech(folder)
    (folder / ".2.png").write_bytes(b"what is hidden does not count")
    (folder / "README").write_text("")
    (folder / "2.png").unlink()
    assert has_speech(folder)


def test_the_fingerprint_is_of_files_and_options(folder, rules):
    first = own_speech(folder).fingerprint
    assert own_speech(folder).fingerprint == first
    assert own_speech(folder, language="fr").fingerprint != first
    assert own_speech(folder, phones=None).fingerprint != first
    recording(folder / "test" / "anna" / "2.wav")
    assert own_speech(folder).fingerprint != first


def test_recordings_are_read_once(folder, cache, monkeypatch):
    first = own_speech(folder, name="my own/1")
    assert [path.name for path in (cache / "speech").glob("[!.]*")] == [f"my-own-1-{first.fingerprint[:12]}"]
    fresh = own_speech(folder, name="my own/1", cache=False)
    monkeypatch.setattr(own, "read_audio", None)
    again = own_speech(folder, name="my own/1")
    for one in dataclasses.fields(first):
        for other in (fresh, again):
            np.testing.assert_array_equal(getattr(first, one.name), getattr(other, one.name))
    os.utime(folder / "test" / "anna" / "1.TextGrid", (1, 1))
    with pytest.raises(TypeError):
        own_speech(folder, name="my own/1")


def test_what_is_refused_is_not_kept(folder, cache):
    (folder / "test" / "anna" / "1.txt").write_text("She has it.")
    refused(folder, "but 'has'")
    assert not list((cache / "speech").glob("[!.]*"))
    refused(folder, "but 'has'")


# errors --------------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path, folder):
    refused(tmp_path / "nowhere", "nowhere: no such folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no sound file in it (.wav, .flac, .ogg, .mp3)")
    refused(folder, "nowhere: no such folder", grids=tmp_path / "nowhere")
    refused(folder / "test", "no recording in split 'train' (0 train, 0 validation, 1 test)", fractions=(0, 0, 1))
    for fractions in ((0.5, 0.5), (0.5, 0.6, 0.1), (-0.1, 1.0, 0.1), (float("nan"), 0.5, 0.5)):
        refused(folder, "fractions=", "add up to 1", fractions=fractions)


def test_recordings_without_annotation(folder):
    sound(folder / "test" / "anna" / "2.wav")
    sound(folder / "test" / "anna" / "3.wav")
    refused(folder, "2.wav: no 2.TextGrid nor .WRD", "(as for 1 more of 5)", "partial=true")
    assert len(own_speech(folder, partial=True)) == 3
    for path in folder.rglob("*.TextGrid"):
        path.unlink()
    refused(folder, "no sound file with a TextGrid or .WRD", partial=True)


def test_two_recordings_of_one_name(folder):
    sound(folder / "test" / "anna" / "1.flac")
    refused(folder, "1.flac and 1.wav", "share one annotation")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(b"RIFF"), "1.wav: "),
        (lambda path: sound(path, level=0.0), "1.wav: is silent"),
        (lambda path: sound(path, seconds=0.2), "1.wav: is 0.20 s long, must be 0.3 s"),
        (
            lambda path: sound(path, seconds=0.65),
            "1.TextGrid: tier 'words': interval 5 (0.6 to 0.9 s, 'it'): ends after",
        ),
        (lambda path: path.with_suffix(".TextGrid").write_text("?"), "1.TextGrid: no TextGrid"),
        (lambda path: path.with_suffix(".txt").write_text("She has it."), "word 2 (0.30 s) is 'had', but 'has' in "),
        (lambda path: path.with_suffix(".txt").write_text(" ... "), "1.txt: has no words"),
        (lambda path: path.with_suffix(".txt").write_bytes(b"\xff\xfe"), "1.txt: is not UTF-8"),
        (lambda path: recording(path, words=[(0.1, 0.3, "{SL}")]), "1.TextGrid: tier 'words': has no words"),
        (lambda path: recording(path, words=[(0.1, 0.3, "sh\ufffd")]), "at 0.1 s has a character that is none, U+FFFD"),
        (lambda path: recording(path, phones=[(0.1, 0.3, "S")]), None),
        (
            lambda path: recording(path, phones=[(0.1, 0.3, "S"), (0.3, 0.5, "@")]),
            "'S' at 0.1 s: 'S' is no letter of IPA",
        ),
        (
            lambda path: recording(path, phones=[(0.1, 0.3, "θ"), (0.3, 0.5, "中")]),
            "'中' at 0.3 s: '中' is no letter of IPA",
        ),
        (lambda path: recording(path, phones=[(0.1, 0.3, "-")]), "'-' at 0.1 s: no phone"),
        (
            lambda path: recording(path, words=[*WORDS[:2], (0.6, 0.9, "中")], phones=None),
            "'中' at 0.6 s: espeak-ng has no",
        ),
    ],
)
def test_one_bad_recording(folder, rules, change, said):
    path = folder / "test" / "anna" / "1.wav"
    path.with_suffix(".txt").unlink()
    change(path)
    if said is None:
        own_speech(folder)
    else:
        refused(folder, path.parent, said)


def test_unknown_words_need_a_transcript(folder, rules):
    path = folder / "test" / "anna" / "1.wav"
    recording(path, words=[WORDS[0], (0.3, 0.5, "<unk>"), WORDS[2]], text="She had, it.")
    assert words_of(own_speech(folder)) == WORDS
    path.with_suffix(".txt").unlink()
    refused(folder, "1.TextGrid: a word at 0.3 s is <unk>, and no transcript says which")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("1600 4800\n", "SX37.WRD: row 1: must be start and end in samples, and a label; is '1600 4800'"),
        ("1600 4800 she\n\n4800 4800 had\n", "SX37.WRD: row 3 (0.300 to 0.300 s, 'had'): must end after it begins"),
        ("4800 8000 had\n1600 4800 she\n", "SX37.WRD: row 2 (0.100 to 0.300 s, 'she'): begins before the row above it"),
        ("1600 18000 she\n", "SX37.WRD: row 1 (0.100 to 1.125 s, 'she'): ends after the recording, which is 1.000 s"),
        ("1600 4800 she\n4800 8000 had\n8000 11200 your\n", "word 3 (0.50 s) is"),
        ("", "SX37.WRD: has no words"),
    ],
)
def test_bad_rows_of_timit(tmp_path, words, said):
    if said.startswith("word 3"):
        said = "has 3 words, and then 'dark.' is missing, of "
    refused(timit(tmp_path, words=words), said, needed=())


# the verb ------------------------------------------------------------------------------------------------------


def test_checking_by_command(command, folder):
    code, out, err = command("data", "check", str(folder), "format=json")
    assert (code, err) == (0, "")
    row = {"utterances": 1, "words": 3, "minutes": round(100 * FRAME / 60, 2), "voices": 1}
    assert json.loads(out) == [{"split": split, **row} for split in SPLITS]
    assert "own: every recording can be read" in command("data", "check", str(folder), "progress=true")[1]
    (folder / "test" / "anna" / "1.txt").write_text("She has it.")
    code, out, err = command("data", "check", str(folder))
    assert (code, out) == (2, "")
    assert "word 2 (0.30 s) is 'had', but 'has' in" in err
    assert len(err.splitlines()) == 1
