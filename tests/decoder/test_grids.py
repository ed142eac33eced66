"""grids.py: tiles of index grids, coded alone, read back together or in part."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, read_grids
from numpy.typing import NDArray
from PIL import Image

from vqcodec import codec, limits, models
from vqcodec.bitstream import container
from vqcodec.bitstream.container import Container
from vqcodec.bitstream.tiles import Tile, split
from vqcodec.decoder.workers import Reader
from vqcodec.encoder import refine
from vqcodec.encoder import tile as tile_coding
from vqcodec.errors import BitstreamError, CorruptChunk, ModelError
from vqcodec.networks import windows
from vqcodec.training.drawings import draw

Index = NDArray[np.uint16]


@lru_cache
def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(draw(np.random.default_rng(1), 300)[:height, :width])


@pytest.fixture(params=TINY)
def model(request: pytest.FixtureRequest, tiny_weights: dict[str, Path]) -> str:
    return str(tiny_weights[request.param])


def cut(grid: Index, stride: int, tile: Tile) -> Index:
    """The part of a level's grid that lies in a tile."""
    rows = slice(tile.top // stride, tile.bottom // stride)
    return grid[rows, tile.left // stride : tile.right // stride]


def by_tile(data: bytes, model: str, found: list[Index]) -> Iterator[tuple[Tile, list[Index]]]:
    parsed, config = container.parse(data, partial=True), models.load(model).config
    for tile in split(parsed.height, parsed.width, config.strides[0]):
        levels = zip(found, config.levels, strict=False)
        yield tile, [cut(grid, level.stride, tile) for grid, level in levels]


def levels_arrived(whole: Container, tile: int, num_bytes: int) -> int:
    """Levels of a tile that can be decoded from so many bytes of the payload."""
    tiles = container.tile_count(whole.width, whole.height)
    ends = [*accumulate(part.size for part in whole.parts)]
    parts = sum(end <= num_bytes for end in ends[tile::tiles])
    return min(parts * container.LEVELS_PER_PART, whole.level_count)


@pytest.mark.parametrize("effort", [0, 1])
def test_what_was_written_is_read(model: str, small_tiles: int, effort: int) -> None:
    loaded, source = models.load(model), np.asarray(picture(70, 50))
    count = len(loaded.config.levels)
    tiles = split(50, 70, loaded.config.strides[0])
    coded = [tile_coding.write_tile(loaded, source, t, 99, effort, count) for t in tiles]
    assert len(tiles) == 6 and {len(p) for p in coded} == {container.part_count(count)}
    entries = [entry for part in zip(*coded, strict=True) for entry in part]
    parsed = Container(
        width=70,
        height=50,
        quality=99,
        model_id=loaded.model_id,
        level_count=count,
        parts=tuple(part for part, _ in entries),
        payload=b"".join(stream for _, stream in entries),
    )
    for tile, parts in zip(tiles, coded, strict=True):
        assert parsed.tile_parts(tile.number) == tuple(part for part, _ in parts)
        assert parsed.tile_streams(tile.number) == [stream for _, stream in parts]
    data = container.pack(parsed)
    shares: list[float] = []
    found = read_grids(data, model=model, progress=shares.append)
    assert found.container == parsed
    assert shares == sorted(shares) and len(shares) == 6 and shares[-1] == 1
    shapes = loaded.config.grid_shapes(50, 70)
    for grid, shape, level in zip(found.grids, shapes, loaded.config.levels, strict=True):
        assert grid.shape == (*shape, level.slices) and grid.dtype == np.uint16
    for tile, levels in by_tile(data, model, found.grids):
        for number, part in enumerate(parsed.tile_parts(tile.number)):
            first, last = (
                number * container.LEVELS_PER_PART,
                (number + 1) * container.LEVELS_PER_PART,
            )
            assert container.checksum_indices(levels[first:last]) == part.check
    if effort == 0:  # where what was chosen is known
        for tile, levels in by_tile(data, model, found.grids):
            latent = windows.encode(loaded, source, tile, 99)
            *_, beam = tile_coding.EFFORTS["psnr"][0]
            chosen = loaded.quantizer(latent, torch.tensor([99]), beam=beam).grids
            for got, want in zip(levels, chosen, strict=True):
                np.testing.assert_array_equal(got, want[0].numpy())


def test_refinement_sees_what_is_around_a_tile(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With margins as wide as the picture, tiles are searched as the whole picture is."""

    def shifted(
        _: object, decode: object, latent: torch.Tensor, *rest: object, keep_best: bool
    ) -> Any:
        return latent + 0.3 * latent.amax((2, 3), keepdim=True)  # of all that it is shown

    monkeypatch.setattr(refine, "refine", shifted)

    def found(side: int, margin: int) -> list[Index]:
        monkeypatch.setattr(limits, "TILE", side)
        monkeypatch.setattr(tile_coding, "MARGIN", margin)
        return read_grids(codec.compress(picture(96, 64), 80, model=model), model=model).grids

    def same(a: list[Index], b: list[Index]) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    whole = found(1024, 0)
    assert same(found(32, 96), whole) and not same(found(32, 0), whole)


def test_refinement_in_either_precision(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, autoencoder = picture(96, 64), models.load(model).autoencoder
    sizes, errors, plain = [], [], autoencoder.decode

    def decode(*inputs: torch.Tensor) -> torch.Tensor:
        seen.add(torch.is_autocast_enabled("cpu"))
        return plain(*inputs)

    monkeypatch.setattr(autoencoder, "decode", decode)
    for fast in (False, True):
        seen: set[bool] = set()
        monkeypatch.setattr(tile_coding, "fast_bfloat16", lambda fast=fast: fast)
        data = codec.compress(source, 80, model=model)
        assert seen == {fast}
        decoded = np.asarray(codec.decompress(data, model=model)).astype(float)
        sizes.append(len(data))
        errors.append(np.square(decoded - np.asarray(source)).mean())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_the_last_choice_goes_by_expected_lengths(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the zero code is cheap, all is zero; without refinement steps none are asked for."""

    def dear(
        model: models.Model,
        choose: Callable[[int], list[torch.Tensor]],
        quality: torch.Tensor,
        levels: int,
    ) -> object:
        assert levels <= len(model.config.levels) and quality.item() % 1
        lengths = [1e9 * torch.ones(1, grid[0].numel(), 8192) for grid in choose(levels)]
        assert len(lengths) == levels
        for k, each in enumerate(lengths):
            each[..., 0] = 0
            lengths[k] = each[..., : model.config.levels[k].codebook_size]
        return lengths

    def found(effort: int) -> list[Index]:
        data = codec.compress(picture(96, 64), 80, effort=effort, model=model)
        return read_grids(data, model=model).grids

    before, config = found(0), models.load(model).config
    monkeypatch.setattr("vqcodec.encoder.code_lengths.expected_lengths", dear)
    for a, b in zip(before, found(0), strict=True):
        np.testing.assert_array_equal(a, b)
    for effort in (1, 2):
        for level, grid in zip(config.levels, found(effort), strict=False):
            assert level.slices > 1 or not grid.any()


@pytest.mark.parametrize("each", [1, 3])
def test_first_levels_of_all_tiles(
    tiny_weights: dict[str, Path],
    small_tiles: int,
    monkeypatch: pytest.MonkeyPatch,
    each: int,
) -> None:
    monkeypatch.setattr(container, "LEVELS_PER_PART", each)
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(40, 16), 100, effort=0, model=model)
    whole = read_grids(data, model=model).grids
    for levels in range(1, 7):
        found = read_grids(data, levels=levels, model=model).grids
        assert len(found) == min(levels, 5)
        for got, want in zip(found, whole, strict=False):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "region", [(0, 0, 1, 1), (219, 39, 1, 1), (15, 31, 2, 9), (30, 0, 2, 40), (0, 0, 220, 40)]
)
def test_only_needed_tiles_are_decoded(
    model: str,
    small_tiles: int,
    monkeypatch: pytest.MonkeyPatch,
    region: tuple[int, int, int, int],
) -> None:
    loaded = models.load(model)
    data = codec.compress(picture(220, 40), 60, effort=0, levels=1, model=model)
    whole = read_grids(data, model=model).grids
    seen, read = [], Reader.read

    def count(reader: Reader, tile: Tile) -> object:
        seen.append(tile.number)
        return read(reader, tile)

    monkeypatch.setattr(Reader, "read", count)
    found = read_grids(data, model=model, region=region)
    box = found.box
    assert sorted(seen) == [tile.number for tile in windows.needed(loaded, 40, 220, box)]
    assert (len(seen) < 14) == (region[2] < 220)
    for (tile, got), (_, want) in zip(
        by_tile(data, model, found.grids), by_tile(data, model, whole), strict=True
    ):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b if tile.number in seen else np.zeros_like(b))


@pytest.mark.parametrize(
    "region",
    [
        *((-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (3, 3, -1, 2), (30, 0, 1, 1)),
        *((0, 20, 1, 1), (0, 0, 31, 20), (0, 0, 30, 21), (29, 19, 2, 1), (29, 19, 1, 2)),
    ],
)
def test_regions_outside_the_picture(
    tiny_weights: dict[str, Path], region: tuple[int, int, int, int]
) -> None:
    model = str(tiny_weights["vq-vae"])
    data = codec.compress(picture(30, 20), 60, effort=0, model=model)
    for read in (read_grids, codec.decompress):
        with pytest.raises(ValueError, match="is not inside 30 x 20"):
            read(data, model=model, region=region)


@pytest.mark.parametrize("each", [1, 3])
def test_every_cut_leaves_what_arrived(
    tiny_weights: dict[str, Path],
    small_tiles: int,
    monkeypatch: pytest.MonkeyPatch,
    each: int,
) -> None:
    monkeypatch.setattr(container, "LEVELS_PER_PART", each)
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(70, 16), 100, model=model)
    parsed = container.parse(data)
    tiles, header = container.tile_count(70, 16), len(data) - len(parsed.payload) - 4
    assert (tiles, len(parsed.parts)) == (3, 3 * (5 if each == 1 else 2))
    whole = [*by_tile(data, model, read_grids(data, model=model).grids)]
    ends = [header + end for end in accumulate(part.size for part in parsed.parts)]
    near = chain.from_iterable((end - 1, end) for end in ends)
    outcomes = set()
    for keep in {*range(header + 1), *near} - {len(data)}:
        arrived = [levels_arrived(parsed, t, keep - header) for t in range(tiles)]
        try:
            found = read_grids(data[:keep], partial=True, model=model)
        except BitstreamError:
            assert keep < header or not any(arrived)
            continue
        assert len(found.grids) == max(arrived) and not found.container.complete
        assert found.container.levels_present <= min(arrived)
        outcomes.add(tuple(arrived))
        cut_file = by_tile(data[:keep], model, found.grids)
        for (tile, got), (_, want) in zip(cut_file, whole, strict=True):
            for level, grid in enumerate(got):
                there = level < arrived[tile.number]
                np.testing.assert_array_equal(grid, want[level] * np.uint16(there))
    assert len(outcomes) == len(ends)  # each part is read as soon as it is there
    assert any(len(set(outcome)) > 1 for outcome in outcomes)  # some tiles finer than others


def test_a_cut_file_is_a_picture(tiny_weights: dict[str, Path], small_tiles: int) -> None:
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(40, 60), 100, effort=0, model=model)
    parsed, notes = container.parse(data), list[str]()
    assert len(parsed.parts) == 8
    missing = sum(part.size for part in parsed.parts[5:])  # one tile has two parts
    end = len(data) - 4 - missing
    decoded = codec.decompress(data[:end], partial=True, model=model, notes=notes.append)
    assert decoded.size == (40, 60)
    assert notes == ["the file was cut: 4 of 5 levels arrived whole"]
    corner = (3, 4, 20, 30)
    part = codec.decompress(data[:end], region=corner, partial=True, model=model)
    assert part.tobytes() == decoded.crop((3, 4, 23, 34)).tobytes()


def test_every_flipped_bit_of_two_tiles_is_reported(
    tiny_weights: dict[str, Path], small_tiles: int
) -> None:
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(40, 10), 90, model=model)
    assert len(container.parse(data).parts) == 4
    codec.verify(data, model=model)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BitstreamError, ModelError)):
            codec.verify(bytes(damaged), model=model)


def test_every_tile_has_checks_of_its_own(tiny_weights: dict[str, Path], small_tiles: int) -> None:
    """Damage with a sound CRC is found in the tile where it is, and only there."""
    model = str(tiny_weights["residual"])
    parsed = container.parse(codec.compress(picture(300, 10), 90, model=model))
    tiles = container.tile_count(300, 10)
    parts = list(parsed.parts)
    parts[2 * tiles - 1] = replace(parts[-1], check=parts[-1].check ^ 1)
    forged = container.pack(replace(parsed, parts=tuple(parts)))
    with pytest.raises(CorruptChunk, match=f"levels from 4 on of tile {tiles - 1} do not match"):
        read_grids(forged, model=model)
    read_grids(forged, model=model, levels=1)
    read_grids(forged, model=model, region=(0, 0, 20, 10))


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.slow
def test_a_damaged_tile_costs_a_tile(
    tiny_weights: dict[str, Path],
    small_tiles: int,
    monkeypatch: pytest.MonkeyPatch,
    each: int,
) -> None:
    """Its parts before the damage stay; all other tiles are what they were."""
    monkeypatch.setattr(container, "LEVELS_PER_PART", each)
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(70, 50), 100, model=model)
    parsed = container.parse(data)
    tiles = container.tile_count(70, 50)
    whole = read_grids(data, model=model)
    assert whole.damaged == 0 and tiles == 6
    assert len(parsed.parts) == tiles * (5 if each == 1 else 2)
    header = len(data) - len(parsed.payload) - 4
    offsets = [header, *(header + end for end in accumulate(p.size for p in parsed.parts))]
    total = 0
    for number in range(len(parsed.parts)):
        damaged = bytearray(data)
        damaged[offsets[number]] ^= 0xFF  # the first byte of the stream
        with pytest.raises(CorruptChunk):
            read_grids(bytes(damaged), model=model)
        found = read_grids(bytes(damaged), partial=True, model=model)
        part, hurt = divmod(number, tiles)
        assert found.damaged <= 1 and not found.container.complete
        total += found.damaged
        for (tile, got), (_, want) in zip(
            by_tile(data, model, found.grids), by_tile(data, model, whole.grids), strict=True
        ):
            same = [np.array_equal(a, b) for a, b in zip(got, want, strict=True)]
            if tile.number != hurt or not found.damaged:
                assert all(same)
                continue
            kept = part * container.LEVELS_PER_PART
            assert all(same[:kept]) and not any(grid.any() for grid in got[kept:])
        notes: list[str] = []
        shown = codec.decompress(bytes(damaged), partial=True, model=model, notes=notes.append)
        assert shown.size == (70, 50) and len(notes) == 1
        assert ("1 of 6 tiles" in notes[0]) == bool(found.damaged)
    assert total > 0.8 * len(parsed.parts)  # a stream of a byte or two may mean the same


@pytest.mark.parametrize("change", [lambda s: s[:1], lambda s: s + bytes(8)], ids=["cut", "long"])
def test_a_stream_of_a_wrong_length_costs_no_part_before_it(
    tiny_weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[bytes], bytes],
) -> None:
    """All checksums are right; and parts are decoded together, so its end may come first."""
    monkeypatch.setattr(container, "LEVELS_PER_PART", 2)
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(96, 64), 100, effort=0, model=model)
    parsed, whole = container.parse(data), read_grids(data, model=model).grids
    for number in range(3):
        streams = parsed.tile_streams(0)
        streams[number] = change(streams[number])
        parts = tuple(
            replace(part, size=len(stream))
            for part, stream in zip(parsed.parts, streams, strict=True)
        )
        forged = container.pack(replace(parsed, parts=parts, payload=b"".join(streams)))
        with pytest.raises(CorruptChunk, match="a stream"):
            read_grids(forged, model=model)
        if number == 0:
            continue
        found = read_grids(forged, model=model, partial=True)
        assert (len(found.grids), found.damaged) == (2 * number, 1)
        assert all(map(np.array_equal, found.grids, whole))


def test_a_damaged_tile_may_be_the_only_one(tiny_weights: dict[str, Path]) -> None:
    model = str(tiny_weights["vq-vae"])
    data = bytearray(codec.compress(picture(40, 40), 80, model=model))
    header = len(data) - len(container.parse(bytes(data)).payload) - 4
    data[header] ^= 0xFF
    with pytest.raises(CorruptChunk, match="not even the first part"):
        read_grids(bytes(data), partial=True, model=model)
