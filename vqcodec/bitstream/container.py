"""`.vqc` bytes <-> fields: header, payload, chunks, checksums, limits. Knows no model.

The layout and the field names are those of docs/format.md, sections 2 and 3:

    magic version flags model_id width height quality level_count | (size check)* | crc
    payload: a stream for each part of each tile, all tiles' first parts first; crc
    chunks announced by flags, in the order of the flag bits: size data crc

Header, payload and each chunk end with a CRC-32. A file that was cut or damaged behind its header
can still be decoded in part: there the 16-bit checks of the decoded indices take over, one for
each part of each tile.
"""

from __future__ import annotations

import binascii
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from vqcodec import limits
from vqcodec.errors import CorruptChunk, NotVqcodecFile, UnsupportedVersion
from vqcodec.limits import MAX_LEVELS, MAX_METADATA_BYTES, MAX_PIXELS, MAX_SIDE

if TYPE_CHECKING:  # `info` and the Pillow plug-in parse headers without waiting for NumPy
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "ALPHA",
    "EXIF",
    "ICC",
    "LEVELS_PER_PART",
    "MAGIC",
    "MODEL_ID_BYTES",
    "VERSION",
    "XMP",
    "Container",
    "Part",
    "checksum_indices",
    "part_count",
    "tile_count",
    "pack",
    "parse",
]

MAGIC: Final = b"\xf6VQC"
VERSION: Final = 0  # 0: the format before release 1.0, which may still change

ALPHA: Final = b"ALPHA"  # opacity plane, a lossless WebP or PNG file
ICC: Final = b"ICC"  # colour profile
EXIF: Final = b"EXIF"  # TIFF structure, orientation already applied
XMP: Final = b"XMP"  # XML packet
_GREY_FLAG: Final = 0x01
# Insertion order is file order: what a picture needs most survives the longest cut.
_CHUNK_FLAGS: Final = {ALPHA: 0x02, ICC: 0x04, EXIF: 0x08, XMP: 0x10}
_KNOWN_FLAGS: Final = _GREY_FLAG | sum(_CHUNK_FLAGS.values())

LEVELS_PER_PART: Final = 4  # the last one may have fewer; a part takes about 5 bytes
MODEL_ID_BYTES: Final = 4
_BLOCK: Final = 256  # no model pads further than to a multiple of this


@dataclass(frozen=True)
class Part:
    """One row of the part table: some levels of one tile.

    Attributes:
        size: bytes of the range coder's stream.
        check: `checksum_indices` of the tile's index grids of the part's levels, 0..65535.
    """

    size: int
    check: int


@dataclass(frozen=True)
class Container:
    """The fields of one `.vqc` file.

    Attributes:
        width, height: size of the unpadded picture in pixels, 1..2**24 each.
        quality: 0..100.
        model_id: first 4 bytes of the SHA-256 of the weights file.
        level_count: 1..64.
        parts: one entry per `LEVELS_PER_PART` levels, coarse first, and tile, row by row: all
            tiles of the first part, then all tiles of the second.
        payload: the streams in the order of `parts`; shorter than the part table says only when
            a cut file was parsed.
        verified: the payload is what was written, by its CRC-32; False only for a cut or damaged
            file.
        grey: the picture is greyscale; a decoder gives one channel.
        chunks: (kind, bytes) pairs, each of `ALPHA`, `ICC`, `EXIF`, `XMP` at most once.
        lost: kinds of chunks that the file announces and does not hold undamaged.
        surplus: bytes behind the end of a file in which nothing else is damaged.
    Raises:
        ValueError: a field lies outside its range.
    """

    width: int
    height: int
    quality: int
    model_id: bytes
    level_count: int
    parts: tuple[Part, ...]
    payload: bytes
    grey: bool = False
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    verified: bool = True
    lost: tuple[bytes, ...] = ()
    surplus: int = 0

    def __post_init__(self) -> None:
        _check_ranges(self.width, self.height, self.quality, self.level_count)
        if len(self.model_id) != MODEL_ID_BYTES:
            raise ValueError(f"model_id has {len(self.model_id)} bytes, not {MODEL_ID_BYTES}")
        tiles = tile_count(self.width, self.height)
        if len(self.parts) != part_count(self.level_count) * tiles:
            raise ValueError(f"{len(self.parts)} parts: {self.level_count} levels, {tiles} tiles")
        most = _max_part_bytes(self.width, self.height)
        for entry in self.parts:
            if not (1 <= entry.size <= most and 0 <= entry.check <= 0xFFFF):
                raise ValueError(f"{entry} is out of range")
        if len(self.payload) > self.payload_size:
            raise ValueError(f"payload of {len(self.payload)} bytes does not fit the part table")
        self._check_chunks()

    def _check_chunks(self) -> None:
        kinds = [kind for kind, _ in self.chunks] + list(self.lost)
        if len(set(kinds)) != len(kinds) or not _CHUNK_FLAGS.keys() >= set(kinds):
            raise ValueError(f"unknown or repeated chunk kinds: {kinds}")
        for kind, data in self.chunks:
            if len(data) > _max_chunk_bytes(kind, self.width, self.height):
                raise ValueError(f"chunk {kind!r} is too large: {len(data)} bytes")

    @property
    def payload_size(self) -> int:
        """Bytes of the whole payload."""
        return self._offsets[-1]

    def tile_parts(self, tile: int) -> tuple[Part, ...]:
        """The entries of one tile, coarse first."""
        return self.parts[tile :: self._tiles]

    def tile_streams(self, tile: int) -> list[bytes]:
        """The streams of one tile, coarse first, as many as have arrived as a whole."""
        numbers = range(tile, len(self.parts), self._tiles)
        spans = [self._offsets[number : number + 2] for number in numbers]
        return [self.payload[start:end] for start, end in spans if end <= len(self.payload)]

    @cached_property
    def _tiles(self) -> int:
        return tile_count(self.width, self.height)

    @cached_property
    def _offsets(self) -> list[int]:
        """Bytes of payload before each stream, and before the end."""
        return [0, *accumulate(part.size for part in self.parts)]

    @property
    def levels_present(self) -> int:
        """How many levels, from the coarsest on, have arrived for every tile."""
        entries = sum(end <= len(self.payload) for end in self._offsets[1:])
        return min(entries // self._tiles * LEVELS_PER_PART, self.level_count)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, damaged or too much; `pack` takes no others."""
        whole = self.verified and len(self.payload) == self.payload_size
        return whole and not self.lost and not self.surplus

    def chunk(self, kind: bytes) -> bytes | None:
        """The bytes of the chunk of this kind, or None."""
        return dict(self.chunks).get(kind)


def _check_ranges(width: int, height: int, quality: int, level_count: int) -> None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"size {width} x {height} is outside 1..{MAX_SIDE}")
    if not 0 <= quality <= 100:
        raise ValueError(f"quality {quality} is outside 0..100")
    if not 1 <= level_count <= MAX_LEVELS:
        raise ValueError(f"{level_count} levels instead of 1..{MAX_LEVELS}")


def part_count(level_count: int) -> int:
    """Parts of each tile."""
    return -(-level_count // LEVELS_PER_PART)


def tile_count(width: int, height: int) -> int:
    """Tiles of a picture: as few rows and columns of them as `TILE` allows."""
    return -(-width // limits.TILE) * -(-height // limits.TILE)


def checksum_indices(grids: Sequence[NDArray[Any]]) -> int:
    """Checksum of the index grids of one part, which proves that a decoder decoded them right.

    Args:
        grids: (h, w, S) integers in [0, 65536) per level.
    Returns:
        CRC-16/IBM-3740 (polynomial 0x1021, start 0xFFFF, not reflected) over the indices, level
        after level, in row-major order as little-endian 16-bit integers, 0..65535.
    Raises:
        ValueError: an index does not fit 16 bits.
    """
    crc = _crc16(b"")
    for indices in grids:
        if indices.size and (int(indices.min()) < 0 or int(indices.max()) > 0xFFFF):
            raise ValueError("an index does not fit 16 bits")
        crc = _crc16(indices.astype("<u2").tobytes(), crc)  # row-major for any strides
    return crc


def pack(container: Container) -> bytes:
    """The bytes of the `.vqc` file that holds these fields; `parse` is the inverse.

    Raises:
        ValueError: the container came from a cut or damaged file.
    Source: docs/format.md, sections 2 and 3.
    """
    if not container.complete:
        raise ValueError("a container of a cut or damaged file cannot be packed")
    chunks = dict(container.chunks)
    flags = _GREY_FLAG * container.grey | sum(_CHUNK_FLAGS[kind] for kind in chunks)
    header = bytearray(MAGIC)
    header += bytes([VERSION, flags])
    header += container.model_id
    header += _varint(container.width) + _varint(container.height)
    header += bytes([container.quality, container.level_count])
    for entry in container.parts:
        header += _varint(entry.size) + entry.check.to_bytes(2, "little")
    header += _crc32(header)
    parts = [bytes(header), container.payload, _crc32(container.payload)]
    for kind in _CHUNK_FLAGS:
        if kind in chunks:
            chunk = _varint(len(chunks[kind])) + chunks[kind]
            parts += [chunk, _crc32(kind + chunk)]
    return b"".join(parts)


def parse(data: bytes, *, partial: bool = False, max_pixels: int = MAX_PIXELS) -> Container:
    """The fields of a `.vqc` file; `pack` is the inverse.

    Args:
        data: the whole file, or with `partial` its beginning.
        partial: accept a file that was cut or damaged behind its header. The result then has
            `complete` False, what arrived of the payload, and the undamaged chunks.
        max_pixels: refuse larger pictures.
    Raises:
        NotVqcodecFile: the magic bytes are others.
        UnsupportedVersion: a newer version of the format.
        CorruptChunk: cut, checksum mismatch, field out of range, bytes behind the end.
        TypeError: no bytes, for example a path.
    """
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"the bytes of a .vqc file, not {type(data).__name__}")
    reader = _Reader(data)
    header = _parse_header(reader, max_pixels)
    payload, verified = _parse_payload(reader, header.payload_size, partial)
    chunks, lost = _parse_chunks(reader, header, partial)
    surplus = len(data) - reader.offset if verified and not lost else 0
    if surplus and not partial:
        raise CorruptChunk(b"end", reader.offset, f"{surplus} bytes behind the end of the file")
    return replace(
        header, payload=payload, verified=verified, chunks=chunks, lost=lost, surplus=surplus
    )


class _Reader:
    """Takes fields off the front of `data`; a field that is cut raises CorruptChunk."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset, self.kind = data, 0, b"header"

    def take(self, size: int) -> bytes:
        field = self.data[self.offset : self.offset + size]
        if len(field) != size:
            raise CorruptChunk(self.kind, self.offset, "the file ends here")
        self.offset += size
        return field

    def varint(self) -> int:
        """Unsigned LEB128 in its shortest form, at most 5 bytes, below 2**32."""
        value = 0
        for position in range(5):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                if (byte == 0 and position) or value >= 2**32:
                    break  # a second spelling of a number would let two files be one container
                return value
        raise self.corrupt("varint is too long")

    def corrupt(self, reason: str) -> CorruptChunk:
        return CorruptChunk(self.kind, self.offset, reason)


def _parse_header(reader: _Reader, max_pixels: int) -> Container:
    """The container of a file that was cut right behind its header: all the rest is lost."""
    if reader.data[: len(MAGIC)] != MAGIC:
        raise NotVqcodecFile("not a .vqc file: the first bytes are others")
    reader.take(len(MAGIC))
    version = reader.take(1)[0]
    if version > VERSION:
        raise UnsupportedVersion(
            f"format version {version} is newer than the {VERSION} that this vqcodec reads"
        )
    flags = reader.take(1)[0]
    if flags & ~_KNOWN_FLAGS:
        raise reader.corrupt(f"unknown flags 0x{flags & ~_KNOWN_FLAGS:02x}")
    model_id = reader.take(MODEL_ID_BYTES)
    width, height = reader.varint(), reader.varint()
    if width * height > max_pixels:
        limit = f"the limit of {max_pixels} pixels (max_pixels)"
        raise reader.corrupt(f"{width} x {height} is over {limit}")
    quality, level_count = reader.take(2)
    try:  # before the part table, whose length they decide
        _check_ranges(width, height, quality, level_count)
    except ValueError as error:  # one list of limits, for writers and readers
        raise reader.corrupt(str(error)) from error
    parts = tuple(
        Part(reader.varint(), int.from_bytes(reader.take(2), "little"))
        for _ in range(part_count(level_count) * tile_count(width, height))
    )
    if _crc32(reader.data[: reader.offset]) != reader.take(4):
        raise reader.corrupt("checksum mismatch")
    lost = tuple(kind for kind, flag in _CHUNK_FLAGS.items() if flags & flag)
    grey = bool(flags & _GREY_FLAG)
    try:
        return Container(width, height, quality, model_id, level_count, parts, b"", grey, lost=lost)
    except ValueError as error:
        raise reader.corrupt(str(error)) from error


def _parse_payload(reader: _Reader, size: int, partial: bool) -> tuple[bytes, bool]:
    """What there is of the payload, and whether that is all of it and undamaged."""
    reader.kind, start = b"payload", reader.offset
    payload = reader.data[start : start + size]
    reader.offset += len(payload)
    try:
        if len(payload) < size:
            raise CorruptChunk(b"payload", start, f"cut: {len(payload)} of {size} bytes")
        if reader.take(4) != _crc32(payload):
            raise CorruptChunk(b"payload", start, "checksum mismatch")
    except CorruptChunk:
        if not partial:
            raise
        return payload, False
    return payload, True


def _parse_chunks(
    reader: _Reader, header: Container, partial: bool
) -> tuple[tuple[tuple[bytes, bytes], ...], tuple[bytes, ...]]:
    """The chunks at the reader's offset, and the kinds of those that are cut off or damaged."""
    chunks: list[tuple[bytes, bytes]] = []
    lost: list[bytes] = []
    for kind in header.lost:
        reader.kind, start = kind, reader.offset
        try:
            size = reader.varint()
            if size > _max_chunk_bytes(kind, header.width, header.height):
                raise reader.corrupt(f"size of {size} bytes is over the limit")
            body = reader.take(size)
            if _crc32(kind + reader.data[start : reader.offset]) != reader.take(4):
                raise CorruptChunk(kind, start, "checksum mismatch")
            chunks.append((kind, body))
        except CorruptChunk:
            if not partial:
                raise
            lost.append(kind)
    return tuple(chunks), tuple(lost)


def _max_part_bytes(width: int, height: int) -> int:
    """Most bytes of a part: for each level, four for every pixel of the padded picture are more
    than any needs."""
    blocks = -(-width // _BLOCK) * -(-height // _BLOCK)
    return min(4 * LEVELS_PER_PART * blocks * _BLOCK**2, 2**32 - 1)


def _max_chunk_bytes(kind: bytes, width: int, height: int) -> int:
    if kind == ALPHA:
        return min(2 * width * height + 2**16, 2**32 - 1)
    return MAX_METADATA_BYTES


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _crc16(data: bytes | bytearray, start: int = 0xFFFF) -> int:
    return binascii.crc_hqx(data, start)


def _crc32(data: bytes | bytearray) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")
