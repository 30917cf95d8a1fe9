"""A corpus of made-up speech: frame t of an utterance is louder by t, so that a frame says where it is from."""

import numpy as np

from indattn.data.speech.corpus import Segment, Utterance, pack

LETTERS = "aeioukptsmn"


def speech(splits=(("train", 8), ("validation", 4), ("test", 4)), phrases=False, seed=0):
    """Utterances of two to five words of one to four phones, 20 to 60 ms each, by two voices a split."""
    random = np.random.default_rng(seed)
    utterances = []
    for split, count in splits:
        for number in range(count):
            words, now = [], int(random.integers(2, 8))
            for word in range(int(random.integers(2, 6))):
                sizes = random.integers(2, 7, random.integers(1, 5))
                edges = now + np.concatenate([[0], np.cumsum(sizes)])
                words.append(
                    Segment(
                        text=f"{split}{number}-{word}",
                        start=edges[0] / 100,
                        end=edges[-1] / 100,
                        phones=tuple(random.choice(list(LETTERS), len(sizes))),
                        phone_times=() if phrases else tuple(zip(edges[:-1] / 100, edges[1:] / 100, strict=True)),
                    )
                )
                now = int(edges[-1] + random.integers(0, 4))
            length = now + int(random.integers(1, 5))
            frames = np.repeat((np.arange(length) % 256).astype(np.uint8)[:, None], 80, 1)
            name = f"{split}-{number}"
            utterances.append(Utterance(name, frames, tuple(words), split, f"{split}-voice-{number % 2}"))
    return pack("made up", "phrase" if phrases else "word", "made up", utterances, f"made up {seed}")
