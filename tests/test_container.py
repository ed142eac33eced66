"""container.py: fields <-> bytes, and what a reader must refuse."""

from __future__ import annotations

import binascii
import contextlib
import pickle
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec import container
from vqcodec.container import ALPHA, EXIF, ICC, XMP, Container, LevelEntry, pack, parse
from vqcodec.errors import BitstreamError, CorruptChunk, NotVqcodecFile, UnsupportedVersion

FORMAT_PAGE = Path(__file__).parent.parent / "docs" / "format.md"
PLAIN = Container(
    width=4,
    height=3,
    quality=40,
    model_id=bytes(range(0x10, 0x18)),
    levels=(
        LevelEntry(1, container.checksum_indices(np.array([[3]]))),
        LevelEntry(1, container.checksum_indices(np.array([[7, 0], [258, 1]]))),
    ),
    payload=bytes.fromhex("7856341232547698"),
    grey=True,
)
RICH = replace(PLAIN, chunks=((ALPHA, b"opacity"), (ICC, b""), (EXIF, b"II*\0"), (XMP, b"<x/>")))
HEADER_BYTES = 28  # of PLAIN and RICH


@st.composite
def containers(draw: st.DrawFn) -> Container:
    entries = st.builds(LevelEntry, st.integers(0, 300), st.integers(0, 0xFFFF))
    levels = tuple(draw(st.lists(entries, min_size=1, max_size=64)))
    words = sum(entry.words for entry in levels)
    kinds = [kind for kind in (ALPHA, ICC, EXIF, XMP) if draw(st.booleans())]
    return Container(
        width=draw(st.integers(1, 2**14)),
        height=draw(st.integers(1, 2**14)),
        quality=draw(st.integers(0, 100)),
        model_id=draw(st.binary(min_size=8, max_size=8)),
        levels=levels,
        payload=draw(st.randoms(use_true_random=False)).randbytes(4 * words),
        grey=draw(st.booleans()),
        chunks=tuple((kind, draw(st.binary(max_size=300))) for kind in kinds),
    )


@settings(deadline=None)
@given(fields=containers())
def test_parsing_inverts_packing(fields: Container) -> None:
    assert parse(pack(fields)) == fields
    assert parse(pack(fields), allow_truncated=True) == fields


def test_chunks_are_written_in_file_order() -> None:
    shuffled = replace(RICH, chunks=RICH.chunks[::-1])
    assert pack(shuffled) == pack(RICH)
    assert parse(pack(shuffled)).chunk(EXIF) == b"II*\0"
    assert parse(pack(shuffled)).chunk(b"none") is None


def test_overhead_of_a_photograph() -> None:
    levels = tuple(LevelEntry(245, 0) for _ in range(10))
    photo = Container(768, 512, 50, bytes(8), levels, bytes(9800))
    assert len(pack(photo)) - len(photo.payload) == 24 + 4 * 10


@pytest.mark.parametrize("fields", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("allow_truncated", [False, True])
def test_every_flipped_bit_is_reported(fields: Container, allow_truncated: bool) -> None:
    good = pack(fields)
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = parse(bytes(damaged), allow_truncated=allow_truncated)
        except BitstreamError:
            continue
        # A size field that grew makes the file look cut: reported through `complete`.
        assert allow_truncated and not found.complete, bit


def test_damaged_fields_of_a_cut_file_change_every_check() -> None:
    cut = pack(PLAIN)[:HEADER_BYTES]
    wanted = [entry.check for entry in PLAIN.levels]
    for bit in range(8 * 6, 8 * 18):  # model_id, width, height, quality, level_count
        damaged = bytearray(cut)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = parse(bytes(damaged), allow_truncated=True)
        except CorruptChunk:
            continue
        for entry, check in zip(found.levels, wanted, strict=False):
            assert entry.check != check, bit


@pytest.mark.parametrize("fields", [PLAIN, RICH], ids=["plain", "rich"])
def test_every_cut(fields: Container) -> None:
    whole = pack(fields)
    payload_end = HEADER_BYTES + len(fields.payload)
    for size in range(len(whole)):
        with pytest.raises(BitstreamError):
            parse(whole[:size])
        if size < HEADER_BYTES:
            with pytest.raises(BitstreamError):
                parse(whole[:size], allow_truncated=True)
            continue
        found = parse(whole[:size], allow_truncated=True)
        arrived = min(size, payload_end) - HEADER_BYTES
        assert not found.complete
        assert found.payload == fields.payload[: arrived // 4 * 4]
        assert found.levels_present == arrived // 4
        assert found.chunks == fields.chunks[: len(found.chunks)]
        assert found.lost == tuple(kind for kind, _ in fields.chunks[len(found.chunks) :])
        with pytest.raises(ValueError):
            pack(found)


def test_payload_that_arrived_whole_is_verified_in_a_cut_file() -> None:
    damaged = bytearray(pack(RICH))
    damaged[HEADER_BYTES] ^= 1
    with pytest.raises(CorruptChunk, match="checksum of header and payload"):
        parse(bytes(damaged[:-1]), allow_truncated=True)


def test_other_files_and_newer_versions() -> None:
    for data in (b"", b"\xf6VQ", b"\x89PNG\r\n\x1a\n", b"VQC\0", bytes(100)):
        with pytest.raises(NotVqcodecFile):
            parse(data)
    newer = bytearray(pack(PLAIN))
    newer[4] = 7
    with pytest.raises(UnsupportedVersion, match="version 7"):
        parse(bytes(newer))


@pytest.mark.parametrize("allow_truncated", [False, True])
@pytest.mark.parametrize("fields", [PLAIN, RICH], ids=["plain", "rich"])
def test_bytes_behind_the_end(fields: Container, allow_truncated: bool) -> None:
    with pytest.raises(CorruptChunk, match="1 bytes behind the end"):
        parse(pack(fields) + b"\0", allow_truncated=allow_truncated)


def _header(
    *, flags: int = 0, size: bytes = b"\x04\x03", quality: int = 40, words: tuple[bytes, ...]
) -> bytes:
    """A header with any fields and a right checksum, without the limits of `pack`."""
    header = b"\xf6VQC\0" + bytes([flags]) + bytes(8) + size + bytes([quality, len(words)])
    for count in words:
        header += count + b"\0\0"
    return header + zlib.crc32(header).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_header(flags=0x20, words=(b"\0",)), "unknown flags 0x20"),
        (_header(size=b"\x00\x03", words=(b"\0",)), "size 0 x 3"),
        (_header(size=b"\x80\x80\x80\x08\x80\x80\x80\x08", words=(b"\0",)), "more than 500000000"),
        (_header(size=b"\x81\x80\x80\x08\x01", words=(b"\0",)), "size 16777217 x 1"),
        (_header(size=b"\x80\x00\x03", words=(b"\0",)), "varint is too long"),
        (_header(size=b"\xff\xff\xff\xff\xff\x03", words=(b"\0",)), "varint is too long"),
        (_header(size=b"\xff\xff\xff\xff\x1f\x03", words=(b"\0",)), "varint is too long"),
        (_header(quality=101, words=(b"\0",)), "quality 101"),
        (_header(words=()), "0 levels"),
        (_header(words=(b"\0",) * 65), "65 levels"),
        (_header(words=(b"\x81\x80\x04",)), "65537.*out of range"),
        (_header(words=(b"\x80\x80\x04",)), "cut: 0 of 262144 bytes"),
    ],
)
def test_fields_out_of_range(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptChunk, match=reason):
        parse(data)


def test_chunk_sizes_are_limited_before_they_are_read() -> None:
    for flag, size in ((0x02, b"\x99\x80\x04"), (0x04, b"\x81\x80\x80\x20")):
        data = _header(flags=flag, words=(b"\0",)) + size
        for allow_truncated in (False, True):
            with pytest.raises(CorruptChunk, match="over the limit"):
                parse(data, allow_truncated=allow_truncated)


def test_pixel_limit_can_be_changed() -> None:
    assert parse(pack(PLAIN), max_pixels=12) == PLAIN
    with pytest.raises(CorruptChunk, match="4 x 3 is more than 11 pixels"):
        parse(pack(PLAIN), max_pixels=11)


@settings(deadline=None)
@given(data=st.binary(max_size=200), sound_start=st.booleans())
def test_any_bytes_parse_or_raise_ours(data: bytes, sound_start: bool) -> None:
    with contextlib.suppress(BitstreamError):
        parse((b"\xf6VQC\0" if sound_start else b"") + data, allow_truncated=True)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": 2**24 + 1},
        {"quality": 101},
        {"model_id": b"short"},
        {"levels": ()},
        {"levels": (LevelEntry(2**16 + 1, 0),)},
        {"levels": (LevelEntry(2, 0x10000),)},
        {"payload": b"123"},
        {"payload": bytes(12)},
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
    check = container.checksum_indices(grid)
    assert check == binascii.crc_hqx(grid.astype("<u2").tobytes(), 0xFFFF)
    assert check == container.checksum_indices(np.asfortranarray(grid).astype(np.int64))
    assert check != container.checksum_indices(grid[::-1])
    assert container.checksum_indices(np.frombuffer(b"123456789\0", "<u2")[:4]) == 0xA12B
    for outside in (-1, 65536):
        with pytest.raises(ValueError):
            container.checksum_indices(np.array([[outside]]))


def test_header_fits_its_bound() -> None:
    widest = Container(
        2**14, 2**14, 100, bytes(8), (LevelEntry(2**28, 0),) * 64, b"", lost=(ICC, XMP)
    )
    assert len(_header(size=b"\x80\x80\x80\x08" * 2, words=(b"\xff\xff\xff\xff\x0f",) * 64)) == (
        container.MAX_HEADER_BYTES
    )
    assert widest.levels_present == 0


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(CorruptChunk(b"ICC", 7, "why")))
    assert (error.kind, error.offset, error.reason) == (b"ICC", 7, "why")
    assert str(error) == "chunk b'ICC' at byte 7: why"


def test_import_needs_neither_numpy_nor_torch() -> None:
    code = "import sys, vqcodec.container; print({'numpy', 'torch'} & set(sys.modules))"
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
