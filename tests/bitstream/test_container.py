"""container.py: fields <-> bytes, and what a reader must refuse."""

from __future__ import annotations

import binascii
import contextlib
import math
import pickle
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import DOCS
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.bitstream import container
from vqcodec.bitstream.container import ALPHA, EXIF, ICC, XMP, Container, Part, pack, parse
from vqcodec.errors import BitstreamError, CorruptChunk, NotVqcodecFile, UnsupportedVersion

FORMAT_PAGE = DOCS / "format.md"
PLAIN = Container(
    width=4,
    height=3,
    quality=40,
    model_id=bytes(range(0x10, 0x14)),
    level_count=5,
    parts=(
        Part(4, container.checksum_indices([np.array([[[k]]]) for k in (3, 0, 9, 1)])),
        Part(4, container.checksum_indices([np.array([[[7], [0]], [[258], [1]]])])),
    ),
    payload=bytes.fromhex("7856341232547698"),
    grey=True,
)
RICH = replace(PLAIN, chunks=((ALPHA, b"opacity"), (ICC, b""), (EXIF, b"II*\0"), (XMP, b"<x/>")))
HEADER_BYTES = 24  # of PLAIN and RICH


# Of one tile, of some, and of many in a row.
sizes = st.one_of(
    st.tuples(st.integers(1, 1024), st.integers(1, 1024)),
    st.tuples(st.integers(1, 2100), st.integers(1, 2100)),
    st.tuples(st.integers(1, 9), st.integers(1, 4200)),
)


@st.composite
def containers(draw: st.DrawFn) -> Container:
    entries = st.builds(Part, st.integers(1, 300), st.integers(0, 0xFFFF))
    level_count = draw(st.integers(1, 64))
    width, height = draw(sizes)
    count = math.ceil(level_count / 4) * math.ceil(width / 1024) * math.ceil(height / 1024)
    parts = tuple(draw(st.lists(entries, min_size=count, max_size=count)))
    size = sum(entry.size for entry in parts)
    kinds = [kind for kind in (ALPHA, ICC, EXIF, XMP) if draw(st.booleans())]
    return Container(
        width=width,
        height=height,
        quality=draw(st.integers(0, 100)),
        model_id=draw(st.binary(min_size=4, max_size=4)),
        level_count=level_count,
        parts=parts,
        payload=draw(st.randoms(use_true_random=False)).randbytes(size),
        grey=draw(st.booleans()),
        chunks=tuple((kind, draw(st.binary(max_size=300))) for kind in kinds),
    )


@settings(deadline=None)
@given(fields=containers())
def test_parsing_inverts_packing(fields: Container) -> None:
    assert parse(pack(fields)) == fields
    assert parse(pack(fields), partial=True) == fields


def test_chunks_are_written_in_file_order() -> None:
    shuffled = replace(RICH, chunks=RICH.chunks[::-1])
    assert pack(shuffled) == pack(RICH)
    assert parse(pack(shuffled)).chunk(EXIF) == b"II*\0"
    assert parse(pack(shuffled)).chunk(b"none") is None


def test_overhead_of_a_photograph() -> None:
    for level_count, parts in ((1, 1), (4, 1), (5, 2), (11, 3), (13, 4), (64, 16)):
        for size, entry in ((127, 3), (128, 4), (980, 4), (16383, 4), (16384, 5)):
            table = tuple(Part(size, 0) for _ in range(parts))
            photo = Container(768, 512, 50, bytes(4), level_count, table, bytes(size * parts))
            overhead = len(pack(photo)) - len(photo.payload)
            assert overhead == 24 + entry * parts


def test_levels_of_one_part_arrive_together() -> None:
    parts = tuple(Part(size, 0) for size in (3, 1, 2, 5))
    fields = replace(PLAIN, level_count=13, parts=parts, payload=bytes(11))
    assert fields.payload_size == 11
    wanted = [0] * 3 + [4, 8, 8] + [12] * 5 + [13]
    for size, levels in enumerate(wanted):
        cut = replace(fields, payload=bytes(size))
        assert (cut.levels_present, len(cut.tile_streams(0))) == (levels, (levels + 3) // 4)


def test_parts_and_streams_of_each_tile() -> None:
    """Two tiles of two parts: A and B of the first levels, then a and b of the others."""
    payload = b"AABabbb"
    parts = tuple(Part(size, check) for size, check in ((2, 5), (1, 6), (1, 7), (3, 8)))
    fields = replace(PLAIN, width=1025, height=9, parts=parts, payload=payload)
    assert parse(pack(fields)) == fields
    assert fields.tile_parts(0) == (parts[0], parts[2])
    assert fields.tile_parts(1) == (parts[1], parts[3])
    a, b = [b"AA", b"a"], [b"B", b"bbb"]
    wanted = [(0, 0, 0)] * 2 + [(1, 0, 0), (1, 1, 4)] + [(2, 1, 4)] * 3 + [(2, 2, 5)]
    for size, (first, second, levels) in enumerate(wanted):
        cut = replace(fields, payload=payload[:size])
        assert (cut.tile_streams(0), cut.tile_streams(1)) == (a[:first], b[:second])
        assert (cut.levels_present, cut.complete) == (levels, size == 7)


@pytest.mark.parametrize(
    ("width", "height", "count"),
    [(1, 1, 1), (1024, 1024, 1), (1025, 1, 2), (1, 1025, 2), (2048, 1025, 4), (2**24, 1, 2**14)],
)
def test_number_of_tiles(width: int, height: int, count: int) -> None:
    assert container.tile_count(width, height) == count


@pytest.mark.parametrize("levels", range(1, 65))
def test_number_of_parts(levels: int) -> None:
    assert container.part_count(levels) == math.ceil(levels / 4)


@pytest.mark.parametrize("fields", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("partial", [False, True])
def test_every_flipped_bit_is_reported(fields: Container, partial: bool) -> None:
    good = pack(fields)
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = parse(bytes(damaged), partial=partial)
        except BitstreamError:
            continue
        # A size field that grew makes the file look cut: reported through `complete`.
        assert partial and not found.complete, bit


def test_a_damaged_header_is_never_read() -> None:
    good = pack(PLAIN)
    for bit in range(8 * HEADER_BYTES):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        for data in (damaged, damaged[:HEADER_BYTES]):
            with pytest.raises(BitstreamError):
                parse(bytes(data), partial=True)


@pytest.mark.parametrize("fields", [PLAIN, RICH], ids=["plain", "rich"])
def test_every_cut(fields: Container) -> None:
    whole = pack(fields)
    payload_end = HEADER_BYTES + len(fields.payload)
    assert len(pack(PLAIN)) == HEADER_BYTES + len(PLAIN.payload) + 4
    for size in range(len(whole)):
        with pytest.raises(BitstreamError):
            parse(whole[:size])
        if size < HEADER_BYTES:
            with pytest.raises(BitstreamError):
                parse(whole[:size], partial=True)
            continue
        found = parse(whole[:size], partial=True)
        arrived = min(size, payload_end) - HEADER_BYTES
        assert not found.complete and found.verified == (size >= payload_end + 4)
        assert found.payload == fields.payload[:arrived]
        assert found.tile_streams(0) == fields.tile_streams(0)[: arrived // 4]
        assert found.levels_present == min(arrived // 4 * 4, 5)
        assert found.chunks == fields.chunks[: len(found.chunks)]
        assert found.lost == tuple(kind for kind, _ in fields.chunks[len(found.chunks) :])
        with pytest.raises(ValueError):
            pack(found)


def test_what_is_damaged_is_told_apart_from_what_is_sound() -> None:
    good = pack(RICH)
    payload_end = HEADER_BYTES + len(RICH.payload)
    damaged = bytearray(good)
    damaged[HEADER_BYTES] ^= 1
    found = parse(bytes(damaged), partial=True)
    assert found == replace(
        RICH, payload=bytes([RICH.payload[0] ^ 1]) + RICH.payload[1:], verified=False
    )
    with pytest.raises(CorruptChunk, match="payload.*checksum mismatch"):
        parse(bytes(damaged))
    for at in range(payload_end, payload_end + 4):  # the checksum itself
        damaged = bytearray(good)
        damaged[at] ^= 1
        assert parse(bytes(damaged), partial=True) == replace(RICH, verified=False)
    damaged = bytearray(good)
    damaged[-1] ^= 1  # the checksum of the last chunk
    kept, (last, _) = RICH.chunks[:-1], RICH.chunks[-1]
    assert parse(bytes(damaged), partial=True) == replace(RICH, chunks=kept, lost=(last,))


def test_other_files_and_newer_versions() -> None:
    for data in (b"", b"\xf6VQ", b"\x89PNG\r\n\x1a\n", b"VQC\0", bytes(100)):
        with pytest.raises(NotVqcodecFile):
            parse(data)
    newer = bytearray(pack(PLAIN))
    newer[4] = 7
    with pytest.raises(UnsupportedVersion, match="version 7"):
        parse(bytes(newer))


@pytest.mark.parametrize("fields", [PLAIN, RICH], ids=["plain", "rich"])
def test_bytes_behind_the_end(fields: Container) -> None:
    data = pack(fields)
    with pytest.raises(CorruptChunk, match="3 bytes behind the end"):
        parse(data + bytes(3))
    found = parse(data + bytes(3), partial=True)
    assert found == replace(fields, surplus=3) and not found.complete
    assert parse(data, partial=True).complete


@pytest.mark.parametrize("data", [None, "a.vqc", Path("a.vqc"), 7])
def test_what_is_no_bytes_is_the_callers_mistake(data: object) -> None:
    with pytest.raises(TypeError, match=r"the bytes of a \.vqc file, not"):
        parse(data)  # type: ignore[arg-type]


def _header(
    *,
    flags: int = 0,
    size: bytes = b"\x04\x03",
    quality: int = 40,
    sizes: tuple[bytes, ...],
    level_count: int | None = None,
) -> bytes:
    """A header with any fields and a right checksum, without the limits of `pack`."""
    level_count = 4 * len(sizes) if level_count is None else level_count
    header = b"\xf6VQC\0" + bytes([flags]) + bytes(4) + size + bytes([quality, level_count])
    for each in sizes:
        header += each + b"\0\0"
    return header + zlib.crc32(header).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_header(flags=0x20, sizes=(b"\1",)), "unknown flags 0x20"),
        (_header(size=b"\x00\x03", sizes=(b"\1",)), "size 0 x 3"),
        (
            _header(size=b"\x80\x80\x80\x08\x80\x80\x80\x08", sizes=(b"\1",)),
            "over the limit of 500000000",
        ),
        (_header(size=b"\x81\x80\x80\x08\x01", sizes=(b"\1",)), "size 16777217 x 1"),
        (_header(size=b"\x80\x00\x03", sizes=(b"\1",)), "varint is too long"),
        (_header(size=b"\xff\xff\xff\xff\xff\x03", sizes=(b"\1",)), "varint is too long"),
        (_header(size=b"\xff\xff\xff\xff\x1f\x03", sizes=(b"\1",)), "varint is too long"),
        (_header(quality=101, sizes=(b"\1",)), "quality 101"),
        (_header(sizes=()), "0 levels"),
        (_header(sizes=(b"\1",) * 17, level_count=65), "65 levels"),
        (_header(sizes=(b"\0",)), "size=0,.*out of range"),
        (_header(sizes=(b"\1", b"\0")), "size=0,.*out of range"),
        (_header(sizes=(b"\x81\x80\x40",)), "1048577.*out of range"),
        (_header(sizes=(b"\x80\x80\x40",)), "cut: 0 of 1048576 bytes"),
        (_header(sizes=(b"\1", b"\x80\x80\x40"), level_count=5), "0 of 1048577 bytes"),
    ],
)
def test_fields_out_of_range(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptChunk, match=reason):
        parse(data)


def test_chunk_sizes_are_limited_before_they_are_read() -> None:
    for flag, size in ((0x02, b"\x99\x80\x04"), (0x04, b"\x81\x80\x80\x20")):
        data = _header(flags=flag, sizes=(b"\1",)) + b"\0" + zlib.crc32(b"\0").to_bytes(4, "little")
        data += size
        with pytest.raises(CorruptChunk, match="over the limit"):
            parse(data)
        assert len(parse(data, partial=True).lost) == 1


def test_pixel_limit_can_be_changed() -> None:
    assert parse(pack(PLAIN), max_pixels=12) == PLAIN
    with pytest.raises(CorruptChunk, match="4 x 3 is over the limit of 11 pixels"):
        parse(pack(PLAIN), max_pixels=11)


@settings(deadline=None)
@given(data=st.binary(max_size=200), sound_start=st.booleans())
def test_any_bytes_parse_or_raise_ours(data: bytes, sound_start: bool) -> None:
    with contextlib.suppress(BitstreamError):
        parse((b"\xf6VQC\0" if sound_start else b"") + data, partial=True)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": 2**24 + 1},
        {"quality": 101},
        {"model_id": b"short"},
        {"level_count": 0, "parts": ()},
        {"level_count": 4},
        {"level_count": 9},
        {"width": 1025},
        {"parts": (Part(2**20 + 1, 0), Part(4, 0))},
        {"parts": (Part(8, 0), Part(0, 0))},
        {"parts": (Part(9, 0), Part(-1, 0))},
        {"parts": (Part(4, 0x10000), Part(4, 0))},
        {"payload": bytes(9)},
        {"chunks": ((b"JUNK", b""),)},
        {"chunks": ((ICC, b"1"), (ICC, b"2"))},
        {"chunks": ((ALPHA, bytes(2 * 12 + 2**16 + 1)),)},
    ],
)
def test_writers_cannot_build_what_readers_refuse(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(PLAIN, **change)  # type: ignore[arg-type]


def test_checksum_of_indices() -> None:
    grid = np.array([[1, 2, 3], [4, 5, 65535]], dtype=np.int32)
    check = container.checksum_indices([grid])
    assert check == binascii.crc_hqx(grid.astype("<u2").tobytes(), 0xFFFF)
    assert check == container.checksum_indices([np.asfortranarray(grid).astype(np.int64)])
    assert check == container.checksum_indices([grid[:1], grid[1:]])
    assert check != container.checksum_indices([grid[::-1]])
    assert container.checksum_indices([np.frombuffer(b"123456789\0", "<u2")[:4]]) == 0xA12B
    for outside in (-1, 65536):
        with pytest.raises(ValueError):
            container.checksum_indices([grid, np.array([[outside]])])


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(CorruptChunk(b"ICC", 7, "why")))
    assert (error.kind, error.offset, error.reason) == (b"ICC", 7, "why")
    assert str(error) == "chunk 'ICC' at byte 7: why"


def test_import_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, vqcodec.bitstream.container; print({'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_worked_example_of_the_format_page() -> None:
    section = FORMAT_PAGE.read_text(encoding="utf-8").split("## 8. ")[1].split("\n## ")[0]
    (block,) = re.findall(r"```hex\n(.*?)```", section, re.DOTALL)
    lines = [line.split("#")[0] for line in block.splitlines()]
    example = bytes.fromhex("".join(lines))
    fields = replace(PLAIN, chunks=((XMP, b"<x/>"),))
    assert example == pack(fields)
    assert parse(example) == fields
