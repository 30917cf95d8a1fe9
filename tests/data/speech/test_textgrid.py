"""TextGrids: what is written is what is read, here and by Praat; what is wrong gets its line."""

from __future__ import annotations

import string
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.data.speech.textgrid import read_textgrid, write_textgrid
from indattn.errors import UserError

pytest.importorskip("praatio")

WORDS = [(0.1, 0.35, "she"), (0.35, 0.5, 'said "no"'), (0.75, 1.0, "dʒɛ̃ñ")]
PHONES = [(0.1, 0.2, "ʃ"), (0.2, 0.35, "i\u02d0")]

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 2.5e-05
            text = ""
        intervals [2]:
            xmin = 2.5e-05
            xmax = 0.5
            text = " été "
        intervals [3]:
            xmin = 0.5
            xmax = 1
            text = ""
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1
        points: size = 1
        points [1]:
            number = 0.5
            mark = "x"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1
        intervals: size = 0
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1
<exists>
3
"IntervalTier"
"words"
0
1
3
0
2.5e-05
""
2.5e-05
0.5
"été"
0.5
1
""
"TextTier"
"clicks"
0
1
1
0.5
"x"
"IntervalTier"
"phones"
0
1
0
"""


def grid(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "a.TextGrid"
    path.write_bytes(text.encode(encoding))
    return path


def refused(call, path, *parts):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
def test_every_format_and_encoding(tmp_path, text, encoding, ends):
    path = grid(tmp_path, text.replace("\n", ends), encoding)
    assert read_textgrid(path, ["words", "phones"], 1.0) == {"words": [(2.5e-05, 0.5, "été")], "phones": []}


def test_json(tmp_path):
    entries = '[[0.0, 0.5, "a"], [0.5, 1.0, ""]]'
    path = grid(
        tmp_path, f'{{"start": 0, "end": 1, "tiers": {{"words": {{"type": "IntervalTier", "entries": {entries}}}}}}}'
    )
    assert read_textgrid(path) == {"words": [(0.0, 0.5, "a")]}
    refused(lambda: read_textgrid(grid(tmp_path, '{"words": []}')), path, "damaged")


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "a.TextGrid"
    write_textgrid(path, 1.25, {"words": WORDS, "phones": PHONES, "none": []})
    assert read_textgrid(path) == {"words": WORDS, "phones": PHONES, "none": []}
    assert [one.name for one in path.parent.iterdir()] == ["a.TextGrid"]


texts = st.text(string.ascii_letters + "'\"-?éŋɹ̩\u02d0 \n中", min_size=1).filter(str.strip)


@given(
    times=st.lists(st.floats(0.001, 3599.0), min_size=2, max_size=12, unique_by=lambda time: round(time, 3)),
    text=texts,
    name=st.text(string.ascii_letters + ' "ŋ', min_size=1),
)
@settings(max_examples=50, deadline=None)
def test_any_texts_and_times_round_trip(tmp_path_factory, times, text, name):
    times = sorted(times)
    entries = [(start, end, text.strip()) for start, end in zip(times[::2], times[1::2], strict=False)]
    path = tmp_path_factory.mktemp("grid") / "a.TextGrid"
    write_textgrid(path, 3600.0, {name: entries})
    assert read_textgrid(path, [name], 3600.0) == {name: entries}


def test_praat_reads_it(tmp_path):
    parselmouth = pytest.importorskip("parselmouth")
    path = tmp_path / "a.TextGrid"
    write_textgrid(path, 1.25, {"words": WORDS, "phones": PHONES})
    read = parselmouth.read(str(path))
    for tier, entries in enumerate((WORDS, PHONES), start=1):
        count = parselmouth.praat.call(read, "Get number of intervals", tier)
        found = [
            tuple(
                parselmouth.praat.call(read, f"Get {what} of interval", tier, k + 1)
                for what in ("start time", "end time", "label")
            )
            for k in range(count)
        ]
        assert found[0][0] == 0
        assert found[-1][1] == 1.25
        assert [entry for entry in found if entry[2]] == entries


@pytest.mark.parametrize("command", ["Save as text file", "Save as short text file"])
def test_what_praat_writes_is_read(tmp_path, command):
    parselmouth = pytest.importorskip("parselmouth")
    write_textgrid(tmp_path / "a.TextGrid", 1.25, {"words": WORDS, "phones": PHONES})
    read = parselmouth.read(str(tmp_path / "a.TextGrid"))
    parselmouth.praat.call(read, command, str(tmp_path / "b.TextGrid"))
    assert read_textgrid(tmp_path / "b.TextGrid") == {"words": WORDS, "phones": PHONES}


@given(text=st.sampled_from([LONG, SHORT]), share=st.floats(0.0, 0.97))
@settings(max_examples=60, deadline=None)
def test_no_part_of_a_textgrid_is_taken_for_all_of_it(tmp_path_factory, text, share):
    path = grid(tmp_path_factory.mktemp("grid"), text[: int(share * len(text))])
    with pytest.raises(UserError):
        read_textgrid(path)


def test_no_textgrid(tmp_path):
    refused(lambda: read_textgrid(tmp_path / "nowhere"), tmp_path / "nowhere", "no such file")
    for text in ("", "She had your dark suit.", 'File type = "ooTextFile"\nObject class = "Pitch 1"\n'):
        path = grid(tmp_path, text)
        refused(lambda: read_textgrid(path), path, "no TextGrid")  # noqa: B023
    path = grid(tmp_path, LONG, "latin-1")
    refused(lambda: read_textgrid(path), path, "neither UTF-8 nor UTF-16")


def test_no_such_tier(tmp_path):
    path = grid(tmp_path, LONG)
    refused(lambda: read_textgrid(path, ["word"]), path, "tier 'word'", "did you mean 'words'?")
    refused(lambda: read_textgrid(path, ["clicks"]), path, "of points")
    path = grid(tmp_path, LONG.replace('"phones"', '"words"'))
    refused(lambda: read_textgrid(path), path, "two tiers are called 'words'")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('0.5\n"été"', '0.50005\n"été"', None),
        ('0.5\n"été"', '0.6\n"été"', "interval 3 (0.5 to 1 s, ''): begins before the last one ends, 0.6 s"),
        ('0.5\n"été"', '0\n"été"', "must end after it begins"),
        ('0.5\n"été"', '2.5e-05\n"été"', "must end after it begins"),
        ('0.5\n"été"', 'x\n"été"', "must be numbers"),
    ],
)
def test_times_out_of_order(tmp_path, old, new, said):
    path = grid(tmp_path, SHORT.replace(old, new))
    if said is None:
        assert read_textgrid(path)["words"] == [(2.5e-05, 0.50005, "été")]
    else:
        refused(lambda: read_textgrid(path), path, "tier 'words'", said)


def test_longer_than_the_recording(tmp_path):
    path = grid(tmp_path, SHORT)
    assert read_textgrid(path, duration=0.45)["words"] == [(2.5e-05, 0.45, "été")]
    refused(lambda: read_textgrid(path, duration=0.3), path, "'été'", "ends after the recording, which is 0.300 s long")


@pytest.mark.parametrize(
    ("duration", "tiers", "said"),
    [
        (1.0, {}, "must have a tier"),
        (0.0, {"words": []}, "duration 0.0 s"),
        (float("nan"), {"words": []}, "duration nan s"),
        (1.0, {"words": [(0.5, 0.7, "b"), (0.1, 0.2, "a")]}, "interval 2 (0.1 to 0.2 s, 'a')"),
        (1.0, {"words": [(0.5, 1.2, "b")]}, "ends after the recording"),
        (1.0, {"words": [(-0.5, 0.2, "b")]}, "begins before 0"),
        (1.0, {"words": [(0.5, 0.5, "b")]}, "must end after it begins"),
        (1.0, {"words": [(0.5, float("nan"), "b")]}, "must end after it begins"),
    ],
)
def test_what_is_not_written(tmp_path, duration, tiers, said):
    path = tmp_path / "a.TextGrid"
    path.write_text("old")
    refused(lambda: write_textgrid(path, duration, tiers), path, said)
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_textgrid(tmp_path / "file" / "a.TextGrid", 1.0, {"words": WORDS})


def test_the_extra_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "praatio.utilities", None)
    for call in (lambda: read_textgrid(tmp_path / "a"), lambda: write_textgrid(tmp_path / "a", 1.0, {"words": []})):
        with pytest.raises(UserError, match=r"indattn\[speech\]"):
            call()
