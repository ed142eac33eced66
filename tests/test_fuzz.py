"""Damaged and hostile files: one of our errors or the right result, soon and in little memory.

VQCODEC_FUZZ_CASES (default 10000, about a minute) says how many `.vqc` files are damaged; the
other tests take a share of that. All damage is drawn from seeds, so a failure names its case and
comes again. tests/fuzz/decode.py looks for cases without end.
"""

from __future__ import annotations

import io
import os
import random
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import read_grids
from PIL import Image

from vqcodec import codec, models
from vqcodec.bitstream import container
from vqcodec.bitstream.container import Container, Part
from vqcodec.decoder import grids
from vqcodec.errors import CorruptChunk, ImageError, ModelError, VqcodecError
from vqcodec.networks.model import hash_file, least_numbers
from vqcodec.picture import reading
from vqcodec.training.drawings import draw

CASES = int(os.environ.get("VQCODEC_FUZZ_CASES", "10000"))
# Not traced, which takes longer than the cases: other tests reach these lines on purpose.
pytestmark = [pytest.mark.slow, pytest.mark.no_cover]

SLOW = 2.0  # seconds of CPU
MORE_MEMORY = 300 * 10**6  # bytes
EXTREME = (0, 1, 2, 127, 128, 1024, 1025, 22000, 2**24 - 1, 2**24, 2**24 + 1, 2**31, 2**32 - 1)
TABLE_LIMIT = 2**12  # entries of part tables that the tests write


@dataclass(frozen=True)
class Seed:
    """A sound file and what is in it."""

    name: str
    model: str
    data: bytes
    fields: Container
    grids: list[np.ndarray]
    pixels: bytes


@pytest.fixture(scope="module")
def seeds(tiny_weights: dict[str, Path]) -> list[Seed]:
    wanted = [
        ("grey", "vq-vae", _picture(40, 24).convert("L")),
        ("alpha", "vq-vae-2", _with_everything(33, 17)),
        ("parts", "residual", _picture(40, 24)),
        ("tiles", "residual", _picture(1040, 8)),
    ]
    found = []
    for name, kind, picture in wanted:
        model = str(tiny_weights[kind])
        data = codec.compress(picture, 90, model=model)
        sound = read_grids(data, model=model)
        pixels = codec.decompress(data, model=model).tobytes()
        found.append(Seed(name, model, data, sound.container, sound.grids, pixels))
    assert [len(seed.fields.parts) for seed in found] == [1, 1, 2, 4]
    return found


def _picture(width: int, height: int) -> Image.Image:
    side = max(width, height, 32)
    return Image.fromarray(draw(np.random.default_rng(9), side)[:height, :width])


def _with_everything(width: int, height: int) -> Image.Image:
    picture = _picture(width, height).convert("RGBA")
    ramp = np.arange(width * height, dtype=np.uint16).astype(np.uint8).reshape(height, width)
    picture.putalpha(Image.fromarray(ramp))
    exif = Image.Exif()
    exif[0x10E] = "a picture"
    kept = {"icc_profile": b"profile" * 9, "exif": exif.tobytes(), "xmp": b"<x/>"}
    picture.info.update(kept)
    return picture


# Damage

Damage = Callable[[random.Random, bytearray], None]


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 5))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _change(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 9))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _insert(rng: random.Random, data: bytearray) -> None:
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 300))
    data[at:at] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))


def _delete(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 4, 16, 300))]


def _repeat(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    run = data[at : at + rng.choice((1, 2, 4, 16, 64))]
    data[at:at] = run * rng.choice((1, 2, 30))


def _overwrite(rng: random.Random, data: bytearray) -> None:
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    run = data[source : source + rng.choice((1, 4, 16, 64))]
    data[target : target + len(run)] = run


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


DAMAGE: tuple[Damage, ...] = (_flip, _change, _insert, _delete, _repeat, _overwrite, _cut)


def damaged(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(DAMAGE)(rng, changed)
        if not changed:
            break
    return bytes(changed)


# What of a file lies where


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def layout(data: bytes) -> tuple[int, int]:
    """Where the CRC-32 of the header lies, and that of the payload.

    Raises:
        IndexError: cut before.
    """
    width, at = _varint(data, 10)
    height, at = _varint(data, at)
    level_count, at = data[at + 1], at + 2
    payload = 0
    for _ in range(container.part_count(level_count) * container.tile_count(width, height)):
        size, at = _varint(data, at)
        payload, at = payload + size, at + 2
    return at, at + 4 + payload


def repaired(data: bytes) -> bytes:
    """The same damage with the CRC-32s that it asks for, if the header can still be read."""
    with suppress(IndexError):
        crc, end = layout(data)
        sound = [
            zlib.crc32(part).to_bytes(4, "little") for part in (data[:crc], data[crc + 4 : end])
        ]
        data = data[:crc] + sound[0] + data[crc + 4 :]
        if len(data) >= end + 4:
            data = data[:end] + sound[1] + data[end + 4 :]
    return data


def extreme(rng: random.Random, seed: Seed) -> bytes:
    """A file with header fields from the ends of their ranges, or beyond, and a sound CRC-32."""
    fields = seed.fields
    crc, end = layout(seed.data)
    flags, model_id = seed.data[5], fields.model_id
    width, height, quality, levels = fields.width, fields.height, fields.quality, fields.level_count
    sides = (*EXTREME, width - 1, width + 1, height - 1, height + 1)
    for _ in range(rng.choice((1, 1, 2))):
        field = rng.randrange(6)
        if field == 0:
            width = rng.choice(sides)
        elif field == 1:
            height = rng.choice(sides)
        elif field == 2:
            quality = rng.choice((0, 1, 99, 100, 101, 255))
        elif field == 3:
            levels = rng.choice((0, 1, 2, 5, 8, 9, 64, 65, 255))
        elif field == 4:
            flags = rng.randrange(256)
        else:
            model_id = rng.randbytes(4)
    sizes = [part.size for part in fields.parts]
    if rng.random() < 0.5:
        sizes[rng.randrange(len(sizes))] = rng.choice((0, 1, 2**18, 2**28, 2**32 - 1))
    if rng.random() < 0.7:  # a part table that fits
        count = container.part_count(levels) * container.tile_count(width, height)
        if count <= TABLE_LIMIT:
            sizes = (sizes * (count // len(sizes) + 1))[:count]
    header = seed.data[:5] + bytes([flags]) + model_id
    header += container._varint(width) + container._varint(height) + bytes([quality, levels])
    table = b"".join(container._varint(n) + rng.randbytes(2) for n in sizes)
    return repaired(header + table + bytes(4) + seed.data[crc + 4 :])


def cases(seed: Seed, others: list[Seed], count: int) -> Iterator[bytes]:
    rng = random.Random(f"{seed.name} 1")
    for _ in range(count):
        kind = rng.randrange(5)
        if kind == 0:
            yield damaged(rng, seed.data)
        elif kind == 1:
            yield repaired(damaged(rng, seed.data))
        elif kind == 2:
            yield extreme(rng, seed)
        elif kind == 3:
            yield repaired(with_damaged_payload(rng, seed))
        else:
            other = rng.choice(others).data
            spliced = (
                seed.data[: rng.randrange(len(seed.data))] + other[rng.randrange(len(other)) :]
            )
            yield rng.choice((repaired(spliced), spliced))


def with_damaged_payload(rng: random.Random, seed: Seed) -> bytes:
    crc, end = layout(seed.data)
    payload = bytearray(seed.data[crc + 4 : end])
    rng.choice((_flip, _change, _overwrite))(rng, payload)
    return seed.data[: crc + 4] + payload[: end - crc - 4] + seed.data[end:]


# Checks


def has_header(seed: Seed, data: bytes) -> bool:
    """Whether the header is the sound file's; another one with a right CRC-32 is another file."""
    crc, _ = layout(seed.data)
    return data[: crc + 4] == seed.data[: crc + 4]


def is_right(seed: Seed, found: grids.Grids) -> bool:
    """Whether what was decoded is what the sound file holds, or zero where that is lost."""
    got, want = found.container, seed.fields
    if not set(got.chunks) <= set(want.chunks):
        return False
    pairs = list(zip(found.grids, seed.grids, strict=False))
    if got.complete and not found.damaged:
        return len(pairs) == len(seed.grids) and all((a == b).all() for a, b in pairs)
    return all(((a == b) | (a == 0)).all() for a, b in pairs)


@contextmanager
def soon(case: object) -> Iterator[None]:
    # Processor time, as a loaded machine is no failure.
    start = time.process_time()
    yield
    assert time.process_time() - start < SLOW, f"case {case} is slow"


def peak_bytes() -> int:
    resource = pytest.importorskip("resource")
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("which", range(4), ids=["grey", "alpha", "parts", "tiles"])
def test_damaged_files_are_refused_or_decode_right(seeds: list[Seed], which: int) -> None:
    seed, before, wrong = seeds[which], peak_bytes(), []
    share = CASES // (8 if seed.name == "tiles" else 4)  # a large picture takes longer
    for number, data in enumerate(cases(seed, seeds, share)):
        with soon(number):
            with suppress(VqcodecError):
                codec.verify(data, seed.model)
                picture = codec.decompress(data, model=seed.model)
                if has_header(seed, data):
                    found = read_grids(data, model=seed.model)
                    wrong += [number] * (not is_right(seed, found))
                    assert picture.tobytes() == seed.pixels or wrong
            with suppress(VqcodecError):
                picture = codec.decompress(data, partial=True, model=seed.model)
                found = read_grids(data, partial=True, model=seed.model)
                assert picture.size == (found.container.width, found.container.height)
                wrong += [number] * (has_header(seed, data) and not is_right(seed, found))
    # What passes a repaired CRC-32, or a cut, meets 16-bit checks: 1 in 65536 may survive those.
    assert len(set(wrong)) <= 2 + CASES / 4 / 2**13, wrong
    assert peak_bytes() - before < MORE_MEMORY


def test_forged_payloads_survive_the_checks_of_indices_by_chance_only(seeds: list[Seed]) -> None:
    """At 2^-16 for each that decodes at all. Survivors are counted, as there must be some."""
    seed, rng = seeds[0], random.Random(2)
    refused = survived = 0
    for _ in range(CASES // 2):
        data = repaired(with_damaged_payload(rng, seed))
        try:
            found = read_grids(data, model=seed.model)
        except CorruptChunk as error:
            refused += "match their checksum" in str(error)
        else:
            survived += not is_right(seed, found)
    print(f"{refused} payloads met the check, {survived} survived, {refused / 2**16:.2f} expected")
    assert refused > CASES / 4
    assert survived <= 3 + 4 * refused / 2**16


def forged(seed: Seed, width: int, height: int, payload: bytes) -> bytes:
    """A file that a stranger made: every checksum is right but those of the indices."""
    tiles = container.tile_count(width, height)
    parts = tuple(Part(len(payload), 0) for _ in range(tiles * len(seed.fields.parts)))
    fields = replace(seed.fields, width=width, height=height, parts=parts, chunks=())
    return container.pack(replace(fields, payload=payload * len(parts)))


@pytest.mark.parametrize(
    ("which", "size"),
    [(0, (22360, 22360)), (2, (22360, 22360)), (0, (29, 2**24)), (2, (2**24, 29))],
)
def test_large_claims_take_neither_time_nor_memory(
    seeds: list[Seed], which: int, size: tuple[int, int]
) -> None:
    seed = seeds[which]
    for payload in (b"\x12\x34\x56\x78" * 8, bytes(4)):
        data = forged(seed, *size, payload)
        for cut in (data, data[:-5]):
            with soon(size), pytest.raises(CorruptChunk):
                codec.decompress(cut, partial=True, model=seed.model)
    if which == 0:
        tracemalloc.start()  # apart, as it takes ten times as long
        with pytest.raises(CorruptChunk):
            codec.decompress(data, model=seed.model)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * 10**6 + 50 * len(data)


def test_a_part_table_is_not_read_before_its_length_is_checked() -> None:
    for size, quality, levels in (((2**32 - 1, 0), 0, 8), ((499 * 10**6, 1), 0, 8)):
        header = b"\xf6VQC\0\0" + bytes(4) + b"".join(map(container._varint, size))
        data = header + bytes([quality, levels]) + bytes(10**7)
        with soon(size), pytest.raises(CorruptChunk, match="is outside 1"):
            container.parse(data)
    with pytest.raises(CorruptChunk, match="255 levels"):
        container.parse(b"\xf6VQC\0\0" + bytes(4) + b"\x01\x01\x00\xff" + bytes(1000))


def test_pixel_limits_reach_the_header(seeds: list[Seed]) -> None:
    seed = seeds[0]
    size = seed.fields.width * seed.fields.height
    codec.verify(seed.data, seed.model, max_pixels=size)
    assert codec.decompress(seed.data, model=seed.model, max_pixels=size).tobytes() == seed.pixels
    for refuse in (codec.verify, codec.decompress, read_grids):
        with pytest.raises(CorruptChunk, match=f"limit of {size - 1} pixels"):
            refuse(seed.data, model=seed.model, max_pixels=size - 1)


def test_flat_pictures_of_few_bytes_pass(tiny_weights: dict[str, Path], tmp_path: Path) -> None:
    """A sure prior codes 15,625 indices in a few bytes: no bound on indices per byte is sound."""
    sound = models.load(str(tiny_weights["vq-vae"]))
    tensors = dict(sound.tensors)
    tensors["prior.level0.output.bias"] = bias = tensors["prior.level0.output.bias"].copy()
    tensors["quantizer.rate_count_0"] = counts = np.zeros_like(tensors["quantizer.rate_count_0"])
    bias[:, 0], bias[:, 1:], counts[..., 0] = 2**23, -(2**23), 1000
    model = str(tmp_path / "sure.safetensors")
    models.save(Path(model), sound.config, tensors, {})
    grey = Image.new("RGB", (3000, 3000), (127, 127, 127))
    data = codec.compress(grey, 0, effort=0, model=model)
    codec.verify(data, model)
    assert len(data) < 150


# Weights


def test_damaged_weights_are_refused_or_others(
    tiny_weights: dict[str, Path], tmp_path: Path
) -> None:
    source, rng, before = tiny_weights["residual"].read_bytes(), random.Random(3), peak_bytes()
    sound = hash_file(tiny_weights["residual"])
    head = 8 + int.from_bytes(source[:8], "little")
    for number in range(CASES // 16):
        if rng.random() < 0.7:  # names, types, shapes, offsets and the configuration
            start = damaged(rng, source[8:head])
            size = len(start) if rng.random() < 0.9 else rng.choice(EXTREME)
            data = size.to_bytes(8, "little") + start + source[head:]
        else:
            data = damaged(rng, source)
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(data)
        with soon(number), suppress(ModelError):
            model = models.load(str(path))
            _ = model.prior, model.autoencoder, model.quantizer
            assert model.model_id != sound or data == source
        path.unlink()
    assert peak_bytes() - before < MORE_MEMORY


def test_small_weights_cannot_ask_for_large_networks(
    tiny_weights: dict[str, Path], tmp_path: Path
) -> None:
    model = models.load(str(tiny_weights["vq-vae"]))
    large: tuple[dict[str, Any], ...] = (
        {"encoder": (1024, 64)},
        {"decoder": ((1024, 64), (1024, 64), (1024, 64))},
        {"levels": (replace(model.config.levels[0], codebook_size=4096, slices=12),) * 64},
    )
    for number, change in enumerate(large):
        path = tmp_path / f"{number}.safetensors"
        models.save(path, replace(model.config, **change), model.tensors, {})
        loaded = models.load(str(path))
        for what in ("autoencoder", "quantizer"):
            with soon(number), pytest.raises(ModelError, match="their configuration needs"):
                getattr(loaded, what)


def test_numbers_that_are_none_are_refused(tiny_weights: dict[str, Path], tmp_path: Path) -> None:
    model = models.load(str(tiny_weights["vq-vae"]))
    for number, broken in enumerate((np.nan, np.inf)):
        tensors = dict(model.tensors)
        tensors["quantizer.codebook_0"] = tensors["quantizer.codebook_0"].copy()
        tensors["quantizer.codebook_0"][0, 1, 2] = broken
        path = tmp_path / f"{number}.safetensors"
        models.save(path, model.config, tensors, {})
        with pytest.raises(ModelError, match="not finite: codebook_0"):
            _ = models.load(str(path)).quantizer


def test_the_bound_on_numbers_holds(tiny_weights: dict[str, Path]) -> None:
    for path in tiny_weights.values():
        model = models.load(str(path))
        _ = model.autoencoder, model.quantizer
        own = ("autoencoder.", "quantizer.")
        stored = sum(t.size for name, t in model.tensors.items() if name.startswith(own))
        assert least_numbers(model.config) <= stored
        assert stored < 2 * least_numbers(model.config)


def test_weights_that_cannot_be_read_are_model_errors(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b", str(tmp_path)):
        with pytest.raises(ModelError):
            models.find(bytes(4), name)


# Pictures


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures() -> list[bytes]:
    rgb, rgba = _picture(24, 18), _with_everything(24, 18)
    kept = {key: rgba.info[key] for key in ("exif", "icc_profile")}
    wide = Image.fromarray(np.arange(432, dtype=np.uint16).reshape(18, 24) * 151)
    return [
        _saved(rgba, "PNG", **kept),
        _saved(wide, "PNG"),
        _saved(rgb.quantize(7), "PNG", transparency=2),
        _saved(rgb, "JPEG", **kept),
        _saved(rgb.convert("CMYK"), "JPEG"),
        _saved(rgb.convert("L"), "JPEG", progressive=True),
        _saved(rgba, "WEBP", **kept, xmp=b"<x/>"),
        _saved(rgba, "WEBP", lossless=True),
        *(_saved(rgba, "TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_deflate")),
        _saved(wide, "TIFF"),
        _saved(rgb, "GIF"),
        _saved(rgb, "BMP"),
        _saved(rgb.quantize(7), "BMP"),
    ]


def _png_repaired(data: bytes) -> bytes:
    """A PNG file whose chunks have the CRC-32 that they ask for."""
    changed, at = bytearray(data), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed)


def test_damaged_pictures_are_refused_or_read() -> None:
    rng, found, before, limit = random.Random(4), pictures(), peak_bytes(), 10**6
    for number in range(CASES // 2):
        data = damaged(rng, rng.choice(found))
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = _png_repaired(data)
        with soon(number), suppress(ImageError):
            picture = reading.read_picture(data, max_pixels=limit)
            assert picture.rgb.dtype == np.uint8 and picture.rgb.shape[2] == 3
            assert 0 < picture.width * picture.height <= limit
            assert picture.alpha is None or picture.alpha.shape == picture.rgb.shape[:2]
    assert peak_bytes() - before < MORE_MEMORY
