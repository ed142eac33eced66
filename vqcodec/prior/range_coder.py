"""Index grids <-> bytes: a range coder for each part. The only importer of `constriction`.

The coder has a 64-bit state and 32-bit words. Its decoder starts with two words and takes one more
whenever its range falls below 2**32, so the number of such falls says where a stream must end. We
count them, because constriction reads zeros past the end and ignores what a stream has too much.

constriction rescales weights to sum to 2**24 - K, then adds 1 to each. Frequencies less one have
that sum, which makes its scale exactly 1.0: our integers pass through unrounded on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from vqcodec.errors import CorruptChunk
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.wavefront_scan import Indices, Shares, Step, scan, scan_known

__all__ = ["IndexGrid", "StreamReader", "StreamWriter", "decode_grids", "encode_grids"]

IndexGrid = NDArray[np.int32]  # (h, w, S)

KIND = b"payload"  # what errors name as the damaged part of the file
STATE_BYTES = 8
WORD_BYTES = 4


def encode_grids(
    prior: IntegerPrior, grids: Sequence[IndexGrid], quality: int, size: int
) -> list[bytes]:
    """Entropy-code the index grids of one tile; `decode_grids` is the inverse.

    Args:
        prior: frozen prior, bit for bit the one that the decoder loads.
        grids: one (h, w, S) int32 array per level, coarse first, values in [0, K); may stop early.
        quality: 0..100, which the prior depends on.
        size: levels of a part; the last one may have fewer.
    Returns:
        A stream for each part.
    Raises:
        ValueError: an index lies outside its codebook, or a shape does not fit.
    Source: range coding, Martin (1979); streams in docs/format.md, section 4.
    """
    writers = [StreamWriter() for _ in range(0, len(grids), size)]
    for step, indices in scan_known(prior, [grid[None] for grid in grids], quality):
        for part, own in _parts(step, size):
            writers[part].push(step.shares[own], indices[own])
    return [writer.finish() for writer in writers]


def decode_grids(
    prior: IntegerPrior,
    streams: Sequence[bytes],
    shapes: Sequence[tuple[int, int]],
    quality: int,
    size: int,
    check: Callable[[list[IndexGrid]], None] | None = None,
) -> list[IndexGrid]:
    """Decode the index grids of one tile.

    Args:
        prior: frozen prior, bit for bit the one that encoded.
        streams: what `encode_grids` made, or the first of them.
        shapes: (h, w) of all levels of these parts, coarse first.
        quality: 0..100, as encoded.
        size: levels of a part; the last one may have fewer.
        check: called after each part with the grids so far; may end decoding by an exception.
    Returns:
        One (h, w, S) int32 array per level; values in [0, K).
    Raises:
        CorruptChunk: a stream is not one of a part with these shapes; `check` has been called for
            all parts before it.
        ValueError: shapes or quality out of range, or their number is not that of the streams.
    """
    if len(streams) != -(-len(shapes) // size):
        raise ValueError(f"{len(shapes)} shapes for {len(streams)} streams")
    parts = _PartsDecoder(streams, size, len(shapes), check)
    grids = scan(prior, shapes, quality, parts.choose, done=parts.done)
    return [grid[0] for grid in grids]


class _PartsDecoder:
    """Decodes the parts of a tile side by side.

    Where one is damaged, the parts before it go on; it and those behind it get zeros.
    """

    def __init__(
        self,
        streams: Sequence[bytes],
        size: int,
        levels: int,
        check: Callable[[list[IndexGrid]], None] | None,
    ) -> None:
        self._readers = [StreamReader(stream) for stream in streams]
        self._size, self._levels, self._check = size, levels, check
        self._complete, self._sound = 0, len(streams)  # parts
        self._damage: CorruptChunk | None = None

    def choose(self, step: Step) -> Indices:
        """The indices of a step."""
        indices = np.zeros(len(step.shares), np.int32)
        for part, own in _parts(step, self._size):
            if part < self._sound:
                try:
                    indices[own] = self._readers[part].pull(step.shares[own])
                except CorruptChunk as error:
                    self._sound, self._damage = part, error
                    if self._complete == part:
                        raise
        return indices

    def done(self, grids: list[NDArray[np.int32]]) -> None:
        """Check the last level, if it ends a part."""
        if len(grids) % self._size and len(grids) < self._levels:
            return
        self._readers[self._complete].finish()
        self._complete += 1
        if self._check:
            self._check([grid[0] for grid in grids])
        if self._damage and self._complete == self._sound:
            raise self._damage


def _parts(step: Step, size: int) -> Iterator[tuple[int, slice]]:
    """The number of each part that has wavefronts in a step, and where its indices lie."""
    for part, wavefronts in groupby(step.wavefronts, key=lambda wavefront: wavefront.level // size):
        own = [wavefront.indices for wavefront in wavefronts]
        yield part, slice(own[0].start, own[-1].stop)


class StreamWriter:
    """Encodes the indices of one part in the order of `scan`."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()
        self._model = stream.model.Categorical(perfect=False)

    def push(self, shares: Shares, indices: Indices) -> None:
        """Encode indices (n,) whose frequencies, less one, are (n, K).

        Raises:
            ValueError: an index lies outside [0, K).
        """
        if indices.min() < 0 or indices.max() >= shares.shape[1]:
            raise ValueError(f"an index lies outside its codebook of {shares.shape[1]}")
        symbols = np.ascontiguousarray(indices, dtype=np.int32)
        self._encoder.encode(symbols, self._model, shares)

    def finish(self) -> bytes:
        """The shortest stream that decodes to what was pushed, of at least a byte.

        Any number in [low, low + range) does, whatever bytes follow. constriction picks one of a
        whole number of words; this is the shortest of a whole number of bytes.
        """
        words = self._encoder.get_compressed()
        count, (lower, size) = self._encoder.pos()
        length = WORD_BYTES * count + STATE_BYTES
        picked = int.from_bytes(words.astype(">u4").tobytes().ljust(length, b"\0"), "big")
        low = picked - (picked - int(lower)) % 2**64
        for unused in range(STATE_BYTES - 1, -1, -1):
            number = -(-low >> 8 * unused) << 8 * unused  # `low`, rounded up
            if number < low + int(size):
                break
        return number.to_bytes(length, "big")[: length - unused]


class StreamReader:
    """Decodes the indices of one part in the order of `scan`; then `finish`."""

    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        words = np.frombuffer(data + bytes(STATE_BYTES - len(data) % WORD_BYTES), ">u4")
        self._decoder = stream.queue.RangeDecoder(words.astype(np.uint32))
        self._model = stream.model.Categorical(perfect=False)
        self._read = _WordsRead()

    def pull(self, shares: Shares) -> NDArray[np.int32]:
        """Decode indices (n,) whose frequencies, less one, are (n, K).

        Raises:
            CorruptChunk: no encoder writes such a stream.
        """
        try:
            indices: NDArray[np.int32] = self._decoder.decode(self._model, shares)
        except (AssertionError, KeyError, ValueError) as error:  # what constriction raises
            raise CorruptChunk(KIND, 0, "words that no encoder writes") from error
        self._read.count(shares[np.arange(len(indices)), indices] + 1)
        if WORD_BYTES * self._read.words >= self._size:
            raise CorruptChunk(KIND, 0, "a stream ends before its last index")
        return indices

    def finish(self) -> None:
        """Check that the stream ends here.

        Raises:
            CorruptChunk: it does not.
        """
        if self._size > WORD_BYTES * self._read.words + STATE_BYTES:
            raise CorruptChunk(KIND, 0, "bytes after the last index of a stream")


class _WordsRead:
    """How many words the decoder has taken since it began, by following its range."""

    def __init__(self) -> None:
        self.words, self._range = 0, 2**64 - 1

    def count(self, frequencies: NDArray[np.float64]) -> None:
        """Take in the frequencies (n,) of the decoded indices, out of 2**24 each."""
        size, words = self._range, self.words
        for frequency in frequencies.astype(np.int64).tolist():
            size = (size >> 24) * frequency
            if size < 2**32:
                size <<= 32
                words += 1
        self._range, self.words = size, words
