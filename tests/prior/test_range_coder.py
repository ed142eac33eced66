"""The range coder: round trips, plain-Python coders, truncation and damage."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from helpers import cross_entropy_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vqcodec.config import Level, ModelConfig, PriorConfig
from vqcodec.errors import CorruptChunk
from vqcodec.prior.freeze import freeze
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.network import Prior
from vqcodec.prior.range_coder import (
    IndexGrid,
    StreamReader,
    StreamWriter,
    decode_grids,
    encode_grids,
)
from vqcodec.prior.wavefront_scan import Step, scan

CONFIG = ModelConfig(
    name="tiny",
    levels=(Level(16, 64), Level(16, 64, slices=2), Level(8, 30, slices=3)),
    latent_dims=(6, 6),
    prior=PriorConfig(channels=(6, 4), layers=1),
)
QUALITY = 50
Grids = list[NDArray[np.int32]]


@cache
def tiny_prior(gain: float = 1.0) -> IntegerPrior:
    """A high gain makes very likely and very unlikely indices."""
    torch.manual_seed(0)
    model = Prior(CONFIG)
    with torch.no_grad():
        for level in range(len(CONFIG.levels)):
            model.tables(level).output.mul_(gain)
    return IntegerPrior(CONFIG, freeze(model))


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


def sampled_grids(prior: IntegerPrior, height: int, width: int, seed: int) -> Grids:
    """Grids that the prior finds likely."""
    rng = np.random.default_rng(seed)

    def choose(step: Step) -> NDArray[np.int64]:
        drawn = rng.random((len(step.shares), 1)) * 2**24
        return np.asarray((step.frequencies.cumsum(axis=1) <= drawn).sum(axis=1))

    return [grid[0] for grid in scan(prior, shapes_from(height, width), QUALITY, choose)]


def assert_equal(got: Sequence[NDArray[np.int32]], want: Sequence[NDArray[np.int32]]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == np.int32
        np.testing.assert_array_equal(one, other)


class PlainDecoder:
    """Range decoder written from docs/format.md, section 4; Python integers only."""

    def __init__(self, stream: bytes) -> None:
        self.stream, self.falls = stream, -2
        self.low, self.range = 0, 2**64 - 1
        self.point = self.next_word() << 32 | self.next_word()

    def next_word(self) -> int:
        self.falls += 1
        start = 4 * self.falls + 4
        return int.from_bytes(self.stream[start : start + 4].ljust(4, b"\0"), "big")

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
        self.low, self.range, self.falls = 0, 2**64 - 1, 0

    def encode(self, frequencies: Sequence[int], index: int) -> None:
        scale = self.range >> 24
        self.low += scale * sum(frequencies[:index])
        self.range = scale * frequencies[index]
        if self.range < 2**32:
            self.low, self.range, self.falls = self.low << 32, self.range << 32, self.falls + 1

    def stream(self) -> bytes:
        for size in range(1, 9):
            unit = 2 ** (64 - 8 * size)
            value = (self.low + unit - 1) // unit * unit
            if value < self.low + self.range:
                return bytes(value.to_bytes(4 * self.falls + 8, "big")[: 4 * self.falls + size])
        raise AssertionError("unit 1 always fits")


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    levels=st.integers(1, 3),
    step=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    gain=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_decoding_inverts_encoding(
    height: int, width: int, levels: int, step: int, seed: int, gain: float
) -> None:
    prior, grids = tiny_prior(gain), random_grids(height, width, seed, levels)
    streams = encode_grids(prior, grids, QUALITY, step)
    assert len(streams) == -(-levels // step)
    shapes = shapes_from(height, width, levels)
    assert_equal(decode_grids(prior, streams, shapes, QUALITY, step), grids)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gain", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_plain_coders_agree_byte_for_byte(step: int, gain: float, seed: int) -> None:
    """The frequencies reach constriction unrounded, and streams end as the page says."""
    prior = tiny_prior(gain)
    draw = sampled_grids if seed % 2 else lambda p, h, w, s: random_grids(h, w, s)
    grids = draw(prior, 3, 1 + seed, seed)
    streams = encode_grids(prior, grids, QUALITY, step)
    decoders, encoders = (
        [PlainDecoder(stream) for stream in streams],
        [PlainEncoder() for _ in streams],
    )

    def choose(found: Step) -> NDArray[np.int64]:
        indices = []
        for wavefront in found.wavefronts:
            for row in found.frequencies[wavefront.indices].astype(np.int64).tolist():
                indices.append(decoders[wavefront.level // step].decode(row))
                encoders[wavefront.level // step].encode(row, indices[-1])
        return np.array(indices)

    decoded = scan(prior, shapes_from(3, 1 + seed), QUALITY, choose)
    assert_equal([grid[0] for grid in decoded], grids)
    for stream, decoder, encoder in zip(streams, decoders, encoders, strict=True):
        assert encoder.stream() == stream
        assert encoder.falls == decoder.falls
        assert 4 * decoder.falls < len(stream) <= 4 * decoder.falls + 8


def test_a_carry_runs_through_words_that_are_written() -> None:
    """The last bytes may change all before them."""
    rng = np.random.default_rng(0)
    carried = 0
    for _ in range(3000):
        writer, plain = StreamWriter(), PlainEncoder()
        # Nearly all of a certain index, the last: `low` ends close to a power of two.
        rare = int(rng.integers(1, 3))
        for _ in range(int(rng.integers(2, 9))):
            frequencies = [rare, 2**24 - rare] if rng.random() < 0.7 else [2**24 - rare, rare]
            index = int(rng.random() < 0.9)
            writer.push(np.array([frequencies], np.float64) - 1, np.array([index]))
            plain.encode(frequencies, index)
        before = plain.low.to_bytes(4 * plain.falls + 8, "big")[: 4 * plain.falls]
        assert writer.finish() == plain.stream()
        carried += plain.stream()[: len(before)] != before
    assert carried > 10


def test_fewer_parts_decode_fewer_levels() -> None:
    prior, grids = tiny_prior(), random_grids(2, 3, 0)
    for step in (1, 2):
        streams = encode_grids(prior, grids, QUALITY, step)
        shapes = shapes_from(2, 3, step)
        assert_equal(decode_grids(prior, streams[:1], shapes, QUALITY, step), grids[:step])


@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_streams_are_as_long_as_the_cross_entropy_says(gain: float) -> None:
    prior = tiny_prior(gain)
    grids = sampled_grids(prior, 16, 24, 2)
    ideal = [bits / 8 for bits in cross_entropy_bits(prior, [g[None] for g in grids], QUALITY)]
    assert sum(ideal) > 200
    for stream, size in zip(encode_grids(prior, grids, QUALITY, 1), ideal, strict=True):
        # One in 256 numbers as long as a range has a byte less; its length says so.
        assert size - 1 <= len(stream) <= 1.001 * size + 1.5


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damaged_streams_raise_corrupt_chunk_or_give_indices_in_range(data: st.DataObject) -> None:
    """The container's checksums catch what still decodes."""
    prior, grids = tiny_prior(30.0), random_grids(2, 3, 0)
    streams = [bytearray(stream) for stream in encode_grids(prior, grids, QUALITY, 2)]
    for _ in range(data.draw(st.integers(1, 3))):
        stream = data.draw(st.sampled_from(streams))
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = decode_grids(prior, [*map(bytes, streams)], shapes_from(2, 3), QUALITY, 2)
    except CorruptChunk:
        return
    for grid, level in zip(got, CONFIG.levels, strict=True):
        assert grid.min() >= 0 and grid.max() < level.codebook_size


@pytest.mark.parametrize("pattern", [b"\xff" * 4, b"\x00" * 4, b"\xfe\xff\xff\xff", b"\x80"])
def test_constant_bytes_are_handled(pattern: bytes) -> None:
    prior, shapes = tiny_prior(30.0), shapes_from(2, 3)
    for count in range(1, 60):
        with contextlib.suppress(CorruptChunk):
            assert len(decode_grids(prior, [pattern * count] * 3, shapes, QUALITY, 1)) == 3


def test_lengths_that_lie_are_corrupt() -> None:
    prior, grids = tiny_prior(), random_grids(4, 5, 0)
    streams, shapes = encode_grids(prior, grids, QUALITY, 1), shapes_from(4, 5)
    for part, stream in enumerate(streams):
        for lie in (stream[:-9], stream[:1], b"", stream + bytes(9), stream * 2):
            wrong = [*streams[:part], lie, *streams[part + 1 :]]
            told: list[int] = []

            def note(got: list[IndexGrid], told: list[int] = told) -> None:
                told.append(len(got))

            with pytest.raises(CorruptChunk, match="stream|words"):
                decode_grids(prior, wrong, shapes, QUALITY, 1, note)
            assert told == [*range(1, part + 1)]  # parts before it are whole
    for shapes_too in (shapes[:2], [], [*shapes, shapes[-1]]):
        with pytest.raises(ValueError, match="shapes"):
            decode_grids(prior, streams, shapes_too, QUALITY, 1)


def test_of_two_damaged_parts_the_coarser_one_counts() -> None:
    """Also where the finer one is found first."""
    prior, grids = tiny_prior(), random_grids(4, 5, 0)
    streams, shapes = encode_grids(prior, grids, QUALITY, 1), shapes_from(4, 5)
    streams[1] = streams[1][:1]  # soon found
    told: list[int] = []
    for first, wanted in ((streams[0], [1]), (streams[0] + bytes(9), [])):  # found at its end
        told.clear()
        with pytest.raises(CorruptChunk):
            wrong = [first, *streams[1:]]
            decode_grids(prior, wrong, shapes, QUALITY, 1, lambda got: told.append(len(got)))
        assert told == wanted


def test_what_a_check_raises_ends_the_decoding() -> None:
    prior, grids = tiny_prior(), random_grids(4, 5, 0)
    streams, told = encode_grids(prior, grids, QUALITY, 1), []

    def check(got: list[NDArray[np.int32]]) -> None:
        told.append(len(got))
        assert_equal(got, grids[: len(got)])
        if len(got) == 2:
            raise KeyError

    with pytest.raises(KeyError):
        decode_grids(prior, streams, shapes_from(4, 5), QUALITY, 1, check)
    assert told == [1, 2]


def test_indices_outside_the_codebook_are_the_callers_mistake() -> None:
    prior, grids = tiny_prior(), random_grids(2, 2, 0)
    grids[1][0, 0, 1] = 64
    with pytest.raises(ValueError, match="codebook"):
        encode_grids(prior, grids, QUALITY, 1)
    for bad in (-1, 2):
        with pytest.raises(ValueError, match="codebook"):
            StreamWriter().push(np.full((2, 2), 2.0**23 - 1), np.array([0, bad]))


@pytest.mark.parametrize(("count", "falls"), [(1, 0), (31, 0), (32, 1), (63, 1), (64, 2)])
def test_a_stream_may_have_eight_lengths(count: int, falls: int) -> None:
    shares = np.full((count, 2), 2.0**23 - 1)  # of one bit each
    for size in range(1, 24):
        reader = StreamReader(b"\x5a" * size)
        with contextlib.ExitStack() as stack:
            if not 4 * falls < size <= 4 * falls + 8:
                stack.enter_context(pytest.raises(CorruptChunk, match="ends before|after"))
            indices = reader.pull(shares)
            reader.finish()
            bits = np.unpackbits(np.frombuffer(b"\x5a" * size + bytes(8), np.uint8))
            np.testing.assert_array_equal(indices[:31], bits[:count][:31])
