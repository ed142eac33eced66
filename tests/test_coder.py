"""The range coder: round trips, a plain-Python decoder, truncation and damage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vqcodec.coder import GridReader, GridWriter, decode_grids, encode_grids
from vqcodec.config import Level, ModelConfig, PriorConfig
from vqcodec.errors import CorruptChunk
from vqcodec.exact_prior import ExactPrior, Front, cross_entropy_bits, walk
from vqcodec.freezing import freeze
from vqcodec.prior import Prior

CONFIG = ModelConfig(
    name="tiny",
    levels=(Level(16, 64), Level(16, 5, slices=2), Level(8, 30, slices=3)),
    latent_dims=(6, 6),
    prior=PriorConfig(channels=(6, 4), layers=1),
)
QUALITY = 50
Grids = list[NDArray[np.int32]]


@cache
def tiny_prior(gain: float = 1.0) -> ExactPrior:
    """A high gain makes very likely and very unlikely indices."""
    torch.manual_seed(0)
    model = Prior(CONFIG)
    with torch.no_grad():
        for level in range(len(CONFIG.levels)):
            model.tables(level).output.mul_(gain)
    return ExactPrior(CONFIG, freeze(model))


def shapes_from(height: int, width: int, levels: int = 3) -> list[tuple[int, int]]:
    factors = [16 // level.stride for level in CONFIG.levels[:levels]]
    return [(height * factor, width * factor) for factor in factors]


def random_grids(height: int, width: int, seed: int, levels: int = 3) -> Grids:
    rng = np.random.default_rng(seed)
    shapes = shapes_from(height, width, levels)
    return [
        rng.integers(0, level.codebook_size, (*shape, level.slices), dtype=np.int32)
        for level, shape in zip(CONFIG.levels, shapes, strict=False)
    ]


def sampled_grids(prior: ExactPrior, height: int, width: int, seed: int) -> Grids:
    """Grids that the prior finds likely."""
    rng = np.random.default_rng(seed)

    def choose(front: Front, frequencies: NDArray[np.float64]) -> NDArray[np.int64]:
        drawn = rng.random((*frequencies.shape[:3], 1)) * 2**24
        return np.asarray((frequencies.cumsum(axis=3) <= drawn).sum(axis=3))

    return [grid[0] for grid in walk(prior, shapes_from(height, width), QUALITY, choose)]


def assert_equal(got: Sequence[NDArray[np.int32]], want: Sequence[NDArray[np.int32]]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == np.int32
        np.testing.assert_array_equal(one, other)


class PlainDecoder:
    """Range decoder written from docs/format.md, section 4; Python integers only."""

    def __init__(self, payload: bytes) -> None:
        self.words = [
            int.from_bytes(payload[k : k + 4], "little") for k in range(0, len(payload), 4)
        ]
        self.read = 0
        self.low, self.range = 0, 2**64 - 1
        self.point = self.next_word() << 32 | self.next_word()

    def next_word(self) -> int:
        self.read += 1
        return self.words[self.read - 1] if self.read <= len(self.words) else 0

    def decode(self, frequencies: Sequence[int]) -> int:
        scale = self.range >> 24
        target = (self.point - self.low) % 2**64 // scale
        assert target < 2**24
        index, below = 0, 0
        while target >= below + frequencies[index]:
            below += frequencies[index]
            index += 1
        self.low = (self.low + scale * below) % 2**64
        self.range = scale * frequencies[index]
        if self.range < 2**32:
            self.low = self.low * 2**32 % 2**64
            self.range *= 2**32
            self.point = self.point * 2**32 % 2**64 + self.next_word()
        return index


class PlainEncoder:
    """The encoder of the same page: an unbounded `low`, so that carries need no care."""

    def __init__(self) -> None:
        self.low, self.range, self.count = 0, 2**64 - 1, 0

    def encode(self, frequencies: Sequence[int], index: int) -> None:
        scale = self.range >> 24
        self.low += scale * sum(frequencies[:index])
        self.range = scale * frequencies[index]
        if self.range < 2**32:
            self.low, self.range, self.count = self.low << 32, self.range << 32, self.count + 1

    def payload(self) -> bytes:
        value, count = (self.low + 2**32 - 1) >> 32, self.count + 1
        if (self.low + self.range) >> 32 == value:
            value, count = value << 32, count + 1
        words = [value >> 32 * k & 0xFFFFFFFF for k in reversed(range(count))]
        return b"".join(word.to_bytes(4, "little") for word in words)


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    levels=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    gain=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_decoding_inverts_encoding(
    height: int, width: int, levels: int, seed: int, gain: float
) -> None:
    prior, grids = tiny_prior(gain), random_grids(height, width, seed, levels)
    payload, level_words = encode_grids(prior, grids, QUALITY)
    assert len(payload) == 4 * level_words[-1]
    shapes = shapes_from(height, width, levels)
    assert_equal(decode_grids(prior, payload, shapes, QUALITY, level_words), grids)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gain", [0.0, 1.0, 30.0])
def test_plain_coders_agree_word_for_word(gain: float, seed: int) -> None:
    """The frequencies reach constriction unrounded, and the word counts are exact."""
    prior = tiny_prior(gain)
    draw = sampled_grids if seed % 2 else lambda p, h, w, s: random_grids(h, w, s)
    grids = draw(prior, 3, 1 + seed, seed)
    payload, level_words = encode_grids(prior, grids, QUALITY)
    decoder, encoder, read = PlainDecoder(payload), PlainEncoder(), [0] * len(grids)

    def choose(front: Front, frequencies: NDArray[np.float64]) -> NDArray[np.int64]:
        indices = np.empty(frequencies.shape[:3], np.int64)
        for place, position in enumerate(frequencies[0].astype(np.int64).tolist()):
            for k, row in enumerate(position):  # a position's slices follow one another
                indices[0, place, k] = index = decoder.decode(row)
                encoder.encode(row, index)
        read[front.level] = decoder.read
        return indices

    decoded = walk(prior, shapes_from(3, 1 + seed), QUALITY, choose)
    assert_equal([grid[0] for grid in decoded], grids)
    assert encoder.payload() == payload
    assert [min(count, len(decoder.words)) for count in read] == level_words
    assert read[-1] <= len(decoder.words) + 1


@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_cutting_at_every_byte_never_gives_wrong_indices(gain: float) -> None:
    prior = tiny_prior(gain)
    for draw in (random_grids(3, 4, 0), sampled_grids(prior, 3, 4, 1)):
        payload, level_words = encode_grids(prior, draw, QUALITY)
        complete = []
        for length in range(len(payload) + 1):
            got = decode_grids(prior, payload[:length], shapes_from(3, 4), QUALITY, level_words)
            assert_equal(got, draw[: len(got)])
            complete.append(len(got))
        assert complete == sorted(complete) and complete[-1] == 3
        for level, words in enumerate(level_words):
            assert complete[4 * words] >= level + 1
            assert complete[4 * words - 1] <= level


def test_fewer_shapes_decode_fewer_levels() -> None:
    prior, grids = tiny_prior(), random_grids(2, 3, 0)
    payload, level_words = encode_grids(prior, grids, QUALITY)
    for levels in (1, 2):
        shapes = shapes_from(2, 3, levels)
        assert_equal(decode_grids(prior, payload, shapes, QUALITY, level_words), grids[:levels])


@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_payload_is_as_long_as_the_cross_entropy_says(gain: float) -> None:
    prior = tiny_prior(gain)
    grids = sampled_grids(prior, 16, 24, 2)
    payload, _ = encode_grids(prior, grids, QUALITY)
    ideal = sum(cross_entropy_bits(prior, [grid[None] for grid in grids], QUALITY)) / 8
    assert ideal > 200
    assert len(payload) <= 1.001 * ideal + 8


def test_a_writer_fed_by_walk_makes_the_same_payload() -> None:
    """Search encodes front by front; `encode_grids` many fronts at once."""
    prior, grids, writer = tiny_prior(), random_grids(4, 5, 7), GridWriter()

    def choose(front: Front, frequencies: NDArray[np.float64]) -> NDArray[np.int32]:
        indices = grids[front.level][front.rows, front.cols][None]
        writer.push(front, frequencies, indices)
        return indices

    walk(prior, shapes_from(4, 5), QUALITY, choose)
    assert writer.finish() == encode_grids(prior, grids, QUALITY)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damaged_words_raise_corrupt_chunk_or_give_indices_in_range(data: st.DataObject) -> None:
    """The container's checksums catch what still decodes."""
    prior, grids = tiny_prior(30.0), random_grids(2, 3, 0)
    payload, level_words = encode_grids(prior, grids, QUALITY)
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = decode_grids(prior, bytes(damaged), shapes_from(2, 3), QUALITY, level_words)
    except CorruptChunk:
        return
    for grid, level in zip(got, CONFIG.levels, strict=True):
        assert grid.min() >= 0 and grid.max() < level.codebook_size


@pytest.mark.parametrize("pattern", [b"\xff" * 4, b"\x00" * 4, b"\xfe\xff\xff\xff"])
def test_constant_words_are_handled(pattern: bytes) -> None:
    prior, shapes = tiny_prior(30.0), shapes_from(2, 3)
    for count in range(1, 60):
        try:
            got = decode_grids(prior, pattern * count, shapes, QUALITY, [1, 1, count])
        except CorruptChunk:
            continue
        assert len(got) == 3


def test_word_counts_that_lie_are_corrupt() -> None:
    prior, grids = tiny_prior(), random_grids(4, 5, 0)
    payload, words = encode_grids(prior, grids, QUALITY)
    shapes, last = shapes_from(4, 5), words[-1]
    assert words[0] + 2 < words[1] < last - 2  # or a lie below would be a merger
    lies = [
        [words[0] - 1, *words[1:]],
        [words[0] + 1, *words[1:]],
        [words[0], words[1] - 1, last],
        [words[0], words[1] + 1, last],
        [words[1] - 1, words[1] - 1, last],
        [words[1] + 1, words[1] + 1, last],
        [words[0], words[1], last - 1],
        [words[0], words[0] - 1, last],
        [0, *words[1:]],
        [1, 1, last],
    ]
    for lie in lies:
        with pytest.raises(CorruptChunk, match="payload"):
            decode_grids(prior, payload, shapes, QUALITY, lie)
    with pytest.raises(CorruptChunk, match="words"):  # never past the end
        decode_grids(prior, payload[: 4 * (last - 3)], shapes, QUALITY, [*words[:2], last - 3])
    with pytest.raises(CorruptChunk, match="after"):
        decode_grids(prior, payload + b"\0", shapes, QUALITY, words)
    with pytest.raises(CorruptChunk, match="rise"):
        GridReader(payload, [])
    with pytest.raises(ValueError, match="shapes"):
        decode_grids(prior, payload, shapes, QUALITY, words[:2])


def test_levels_with_equal_word_counts_arrive_together() -> None:
    prior, grids = tiny_prior(), random_grids(3, 4, 0)
    payload, words = encode_grids(prior, grids, QUALITY)
    shapes = shapes_from(3, 4)
    for counts, steps in (([words[1], *words[1:]], [0, 2, 3]), ([words[2]] * 3, [0, 3])):
        arrived = set()
        for length in range(len(payload) + 1):
            got = decode_grids(prior, payload[:length], shapes, QUALITY, counts)
            assert_equal(got, grids[: len(got)])
            arrived.add(len(got))
        assert sorted(arrived) == steps
        for levels in (1, 2):
            got = decode_grids(prior, payload, shapes[:levels], QUALITY, counts)
            assert_equal(got, grids[:levels])


def test_a_level_that_has_not_arrived_is_refused() -> None:
    prior, grids = tiny_prior(), random_grids(3, 4, 0)
    payload, words = encode_grids(prior, grids, QUALITY)
    reader = GridReader(payload[: 4 * words[1]], words)
    assert reader.levels_arrived == 2
    with pytest.raises(CorruptChunk, match="arrived"):
        walk(prior, shapes_from(3, 4), QUALITY, reader.pull)


def test_indices_outside_the_codebook_are_the_callers_mistake() -> None:
    prior, grids = tiny_prior(), random_grids(2, 2, 0)
    grids[1][0, 0, 1] = 5
    with pytest.raises(ValueError, match="codebook"):
        encode_grids(prior, grids, QUALITY)
    front = Front(0, np.array([0]), np.array([0]))
    frequencies = np.full((1, 1, 2, 2), 2.0**23)
    for bad in (-1, 2):
        with pytest.raises(ValueError, match="codebook"):
            GridWriter().push(front, frequencies, np.array([[[0, bad]]]))
