"""Index grids <-> payload bytes: one range coder per tile. The only importer of `constriction`.

The coder has a 64-bit state and 32-bit words. Its decoder reads two words before the first index
and one more whenever its range falls below 2**32, so after any index it has read exactly
2 + (number of such falls) words: `_WordsRead` counts them. That count makes levels decodable
from a prefix of the payload, and reading past the end an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from vqcodec.errors import CorruptChunk
from vqcodec.exact_prior import ExactPrior, Frequencies, Front, Indices, walk, walk_known

__all__ = ["GridReader", "GridWriter", "IndexGrid", "decode_grids", "encode_grids"]

IndexGrid = NDArray[np.int32]  # (h, w, S)

KIND = b"payload"
WORD_BYTES = 4


def encode_grids(
    prior: ExactPrior, grids: Sequence[IndexGrid], quality: int
) -> tuple[bytes, list[int]]:
    """Entropy-code the index grids of one tile; `decode_grids` is the inverse.

    Args:
        prior: frozen prior, bit for bit the one that the decoder loads.
        grids: one (h, w, S) int32 array per level, coarse first, values in [0, K); may stop early.
        quality: 0..100, part of what the prior is told.
    Returns:
        Payload, a whole number of little-endian 32-bit words, and how many of its words a decoder
        needs for each level (and all before it).
    Raises:
        ValueError: an index lies outside its codebook, or a shape does not fit.
    Source: range coding, Martin (1979); word layout in docs/format.md, section 4.
    """
    writer = GridWriter()
    for front, frequencies in walk_known(prior, [grid[None] for grid in grids], quality):
        indices = grids[front.level][front.rows, front.cols]
        writer.push(front, frequencies, indices[None])
    return writer.finish()


def decode_grids(
    prior: ExactPrior,
    payload: bytes,
    shapes: Sequence[tuple[int, int]],
    quality: int,
    level_words: Sequence[int],
    check: Callable[[list[IndexGrid]], None] | None = None,
) -> list[IndexGrid]:
    """Decode the index grids of one tile, as many levels as arrived completely.

    Args:
        prior: frozen prior, bit for bit the one that encoded.
        payload: what `encode_grids` made, or the beginning of it.
        shapes: (h, w) per level, coarse first; fewer than were coded to stop early.
        quality: 0..100, as encoded.
        level_words: the words that each coded level needs, as `encode_grids` returned them, or
            those that a later level needs: levels with equal counts arrive together.
        check: told the grids so far after each level; what it raises saves decoding the rest.
    Returns:
        One (h, w, S) int32 array per level that arrived; values in [0, K).
    Raises:
        CorruptChunk: the words are not those of a payload with these levels.
        ValueError: shapes or quality out of range, more shapes than levels were coded.
    """
    if len(shapes) > len(level_words):
        raise ValueError(f"{len(shapes)} shapes for {len(level_words)} coded levels")
    reader = GridReader(payload, level_words)
    arrived = min(reader.levels_arrived, len(shapes))
    if arrived == 0:
        return []

    def done(grids: list[IndexGrid]) -> None:
        if check:
            check([grid[0] for grid in grids])

    grids = walk(prior, shapes[:arrived], quality, reader.pull, done=done)
    reader.finish()
    return [grid[0] for grid in grids]


class GridWriter:
    """Encodes fronts as they come, in the order of `walk`, for a batch of one."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()
        self._model = stream.model.Categorical(perfect=False)
        self._level = 0
        self._level_words: list[int] = []

    def push(self, front: Front, frequencies: Frequencies, indices: Indices) -> None:
        """Encode the indices (1, n, S) of a front under its frequencies (1, n, S, K).

        Raises:
            ValueError: an index lies outside [0, K).
        """
        if indices.min() < 0 or indices.max() >= frequencies.shape[3]:
            raise ValueError(f"an index lies outside its codebook of {frequencies.shape[3]}")
        if front.level != self._level:
            self._level_words.append(self._words_read())
            self._level = front.level
        symbols = np.ascontiguousarray(indices.ravel(), dtype=np.int32)
        self._encoder.encode(symbols, self._model, as_weights(frequencies))

    def finish(self) -> tuple[bytes, list[int]]:
        """The payload, and per level pushed the words that its decoder needs."""
        words = self._encoder.get_compressed()
        counts = [*self._level_words, self._words_read()]
        # The end is sealed with one or two words, whichever suffices; absent words read as zero.
        return words.astype("<u4").tobytes(), [min(count, len(words)) for count in counts]

    def _words_read(self) -> int:
        """Words that the decoder has read when it has decoded all that was pushed."""
        return int(self._encoder.pos()[0]) + 2


class GridReader:
    """Decodes fronts in the order of `walk`, for a batch of one; `finish` after the last."""

    def __init__(self, payload: bytes, level_words: Sequence[int]) -> None:
        """`payload` may lack its end; `level_words` as `GridWriter.finish` returned them.

        Raises:
            CorruptChunk: impossible word counts, or more payload than they account for.
        """
        self._level_words = list(level_words)
        available = len(payload) // WORD_BYTES
        ordered = all(a <= b for a, b in zip(level_words, level_words[1:], strict=False))
        if not level_words or level_words[0] < 1 or not ordered:
            raise CorruptChunk(KIND, 0, f"word counts {self._level_words} do not rise from 1")
        if len(payload) > level_words[-1] * WORD_BYTES:
            raise CorruptChunk(KIND, level_words[-1] * WORD_BYTES, "bytes after the last word")
        self.levels_arrived = sum(count <= available for count in level_words)
        words = np.frombuffer(payload, "<u4", available).astype(np.uint32)
        self._decoder = stream.queue.RangeDecoder(words)
        self._model = stream.model.Categorical(perfect=False)
        self._read, self._level = _WordsRead(), 0

    def pull(self, front: Front, frequencies: Frequencies) -> NDArray[np.int32]:
        """Decode the indices (1, n, S) of a front under its frequencies (1, n, S, K).

        Raises:
            CorruptChunk: the level has not arrived, or the words do not decode.
        """
        if front.level != self._level:
            self._end_level()
            self._level = front.level
        if front.level >= self.levels_arrived:
            raise CorruptChunk(KIND, 0, f"level {front.level} has not arrived completely")
        try:
            symbols = self._decoder.decode(self._model, as_weights(frequencies))
        except (AssertionError, KeyError, ValueError) as error:
            # What constriction raises on words that no encoder writes.
            raise CorruptChunk(KIND, self._offset(), "words that no encoder writes") from error
        self._read.count(frequencies.reshape(len(symbols), -1)[np.arange(len(symbols)), symbols])
        if self._read.words > self._level_words[front.level] + 1:
            raise CorruptChunk(KIND, self._offset(), f"level {front.level} needs more words")
        return np.asarray(symbols, dtype=np.int32).reshape(frequencies.shape[:3])

    def finish(self) -> None:
        """Check that the last level pulled ended where it should.

        Raises:
            CorruptChunk: it did not.
        """
        self._end_level()

    def _end_level(self) -> None:
        expected = self._level_words[self._level]
        if expected in self._level_words[self._level + 1 : self._level + 2]:
            return  # only the last of several levels is known to end there
        if min(self._read.words, self._level_words[-1]) != expected:
            reason = f"level {self._level} took {self._read.words} words, not {expected}"
            raise CorruptChunk(KIND, self._offset(), reason)

    def _offset(self) -> int:
        return self._read.words * WORD_BYTES


class _WordsRead:
    """How many words the decoder has read: its range, followed symbol by symbol."""

    def __init__(self) -> None:
        self.words, self._range = 2, 2**64 - 1

    def count(self, frequencies: NDArray[np.float64]) -> None:
        """Take in the frequencies (n,) of the decoded indices, out of 2**24 each."""
        size, words = self._range, self.words
        for frequency in frequencies.astype(np.int64).tolist():
            size = (size >> 24) * frequency
            if size < 2**32:
                size <<= 32
                words += 1
        self._range, self.words = size, words


def as_weights(frequencies: Frequencies) -> NDArray[np.float64]:
    """(1, n, S, K) -> (n S, K), what constriction takes: the slices of a position in a row."""
    # constriction rescales weights to sum to 2**24 - K, then adds 1 to each. Weights that already
    # have that sum make its scale exactly 1.0: our integers pass through unrounded on any machine.
    rows = frequencies.reshape(-1, frequencies.shape[3]) - 1
    return np.ascontiguousarray(rows, dtype=np.float64)
