"""`.vqc` bytes <-> fields: header, payload, chunks, checksums, limits. Knows no model.

The layout and the field names are those of docs/format.md, sections 2 and 3:

    magic version flags model_id width height quality level_count | (words check)* | crc
    payload: 32-bit words, level after level
    chunks announced by flags, in the order of the flag bits: size data crc

One CRC-32 in the header covers header and payload and is verified as soon as the payload is all
there; each chunk ends with a CRC-32 of its own. A file that was cut has no payload CRC to verify:
there the 16-bit check of each level's decoded indices takes over. It is stored mixed with a CRC-16
of the fields before the level table, so a cut file with a damaged size or model id fails it too.
"""

from __future__ import annotations

import binascii
import zlib
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from vqcodec.errors import CorruptChunk, NotVqcodecFile, UnsupportedVersion

if TYPE_CHECKING:  # `info` and the Pillow plug-in parse headers without waiting for NumPy
    from numpy.typing import NDArray

__all__ = [
    "ALPHA",
    "EXIF",
    "ICC",
    "MAGIC",
    "MAX_HEADER_BYTES",
    "MAX_LEVELS",
    "MAX_METADATA_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "VERSION",
    "XMP",
    "Container",
    "LevelEntry",
    "checksum_indices",
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

MAX_SIDE: Final = 2**24  # samples
MAX_PIXELS: Final = 500_000_000  # default of `parse`
MAX_LEVELS: Final = 64
MAX_METADATA_BYTES: Final = 2**26  # per ICC, EXIF or XMP chunk
MAX_HEADER_BYTES: Final = 14 + 2 * 4 + 2 + MAX_LEVELS * (5 + 2) + 4  # enough to parse any header
_BLOCK: Final = 256  # no model pads further than to a multiple of this


@dataclass(frozen=True)
class LevelEntry:
    """One row of the level table.

    Attributes:
        words: 32-bit payload words that this level adds: with the words of the levels before it
            and these, the level can be decoded.
        check: `checksum_indices` of the level's index grid, 0..65535.
    """

    words: int
    check: int


@dataclass(frozen=True)
class Container:
    """The fields of one `.vqc` file.

    Attributes:
        width, height: size of the unpadded picture in pixels, 1..2**24 each.
        quality: 0..100.
        model_id: first 8 bytes of the SHA-256 of the weights file.
        levels: one entry per level, coarse first, 1..64 of them.
        payload: little-endian 32-bit words of the range coder, level after level; shorter than
            the level table says only when a cut file was parsed.
        grey: the picture is greyscale; a decoder gives one channel.
        chunks: (kind, bytes) pairs, each of `ALPHA`, `ICC`, `EXIF`, `XMP` at most once.
        lost: kinds of chunks that a cut file announces and does not hold.
    Raises:
        ValueError: a field lies outside its range.
    """

    width: int
    height: int
    quality: int
    model_id: bytes
    levels: tuple[LevelEntry, ...]
    payload: bytes
    grey: bool = False
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    lost: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(f"size {self.width} x {self.height} is outside 1..{MAX_SIDE}")
        if not 0 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality} is outside 0..100")
        if len(self.model_id) != 8:
            raise ValueError(f"model_id has {len(self.model_id)} bytes instead of 8")
        if not 1 <= len(self.levels) <= MAX_LEVELS:
            raise ValueError(f"{len(self.levels)} levels instead of 1..{MAX_LEVELS}")
        most = _max_words(self.width, self.height)
        for entry in self.levels:
            if not (0 <= entry.words <= most and 0 <= entry.check <= 0xFFFF):
                raise ValueError(f"{entry} is out of range")
        if len(self.payload) % 4 or len(self.payload) > 4 * self.word_ends[-1]:
            raise ValueError(f"payload of {len(self.payload)} bytes does not fit the level table")
        self._check_chunks()

    def _check_chunks(self) -> None:
        kinds = [kind for kind, _ in self.chunks] + list(self.lost)
        if len(set(kinds)) != len(kinds) or not _CHUNK_FLAGS.keys() >= set(kinds):
            raise ValueError(f"unknown or repeated chunk kinds: {kinds}")
        for kind, data in self.chunks:
            if len(data) > _max_chunk_bytes(kind, self.width, self.height):
                raise ValueError(f"chunk {kind!r} is too large: {len(data)} bytes")

    @property
    def word_ends(self) -> tuple[int, ...]:
        """Words that must be present for each level, cumulative: the inverse of `words`."""
        return tuple(accumulate(entry.words for entry in self.levels))

    @property
    def levels_present(self) -> int:
        """How many levels, from the coarsest on, the payload is long enough for."""
        num_words = len(self.payload) // 4
        return sum(end <= num_words for end in self.word_ends)

    @property
    def complete(self) -> bool:
        """Whether nothing was cut off; `pack` takes only complete containers."""
        return len(self.payload) == 4 * self.word_ends[-1] and not self.lost

    def chunk(self, kind: bytes) -> bytes | None:
        """The bytes of the chunk of this kind, or None."""
        return dict(self.chunks).get(kind)


def checksum_indices(indices: NDArray[Any]) -> int:
    """Checksum of one index grid, which proves that a decoder decoded it right.

    Args:
        indices: (h, w) integers in [0, 65536).
    Returns:
        CRC-16/IBM-3740 (polynomial 0x1021, start 0xFFFF, not reflected) over the indices in
        row-major order as little-endian 16-bit integers, 0..65535.
    Raises:
        ValueError: an index does not fit 16 bits.
    """
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) > 0xFFFF):
        raise ValueError("an index does not fit 16 bits")
    return _crc16(indices.astype("<u2").tobytes())  # tobytes is row-major for any strides


def pack(container: Container) -> bytes:
    """The bytes of the `.vqc` file that holds these fields; `parse` is the inverse.

    Raises:
        ValueError: the container came from a cut file.
    Source: docs/format.md, sections 2 and 3.
    """
    if not container.complete:
        raise ValueError("a container that lacks payload or chunks cannot be packed")
    chunks = dict(container.chunks)
    flags = _GREY_FLAG * container.grey | sum(_CHUNK_FLAGS[kind] for kind in chunks)
    header = bytearray(MAGIC)
    header += bytes([VERSION, flags])
    header += container.model_id
    header += _varint(container.width) + _varint(container.height)
    header += bytes([container.quality, len(container.levels)])
    mask = _crc16(header)
    for entry in container.levels:
        header += _varint(entry.words) + (entry.check ^ mask).to_bytes(2, "little")
    header += _crc32(header, container.payload)
    parts = [bytes(header), container.payload]
    for kind in _CHUNK_FLAGS:
        if kind in chunks:
            size = _varint(len(chunks[kind]))
            parts += [size, chunks[kind], _crc32(size, chunks[kind])]
    return b"".join(parts)


def parse(data: bytes, *, allow_truncated: bool = False, max_pixels: int = MAX_PIXELS) -> Container:
    """The fields of a `.vqc` file; `pack` is the inverse.

    Args:
        data: the whole file, or with `allow_truncated` its beginning. `MAX_HEADER_BYTES` bytes
            are always enough for the header.
        allow_truncated: accept a file that was cut behind its header. The result then has
            `complete` False, the whole words that arrived as payload, and the whole chunks.
        max_pixels: refuse larger pictures.
    Raises:
        NotVqcodecFile: the magic bytes are others.
        UnsupportedVersion: a newer version of the format.
        CorruptChunk: cut, checksum mismatch, field out of range, bytes behind the end.
    """
    reader = _Reader(data)
    header = _parse_header(reader, max_pixels)
    start, size = reader.offset, 4 * header.word_ends[-1]
    payload = data[start : start + size]
    if len(payload) == size:
        if _crc32(data[: start - 4], payload) != data[start - 4 : start]:
            raise CorruptChunk(b"header", start - 4, "checksum of header and payload mismatch")
    elif not allow_truncated:
        raise CorruptChunk(b"payload", start, f"cut: {len(payload)} of {size} bytes")
    reader.offset += len(payload)
    chunks, lost = _parse_chunks(reader, header, allow_truncated)
    if not lost and reader.offset != len(data):
        surplus = len(data) - reader.offset
        raise CorruptChunk(b"end", reader.offset, f"{surplus} bytes behind the end of the file")
    payload = payload[: len(payload) // 4 * 4]
    return replace(header, payload=payload, chunks=chunks, lost=lost)


class _Cut(CorruptChunk):
    """The file ends inside this field."""


class _Reader:
    """Takes fields off the front of `data`; a field that is cut raises CorruptChunk."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset, self.kind = data, 0, b"header"

    def take(self, size: int) -> bytes:
        field = self.data[self.offset : self.offset + size]
        if len(field) != size:
            raise _Cut(self.kind, self.offset, "the file ends here")
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
    model_id = reader.take(8)
    width, height = reader.varint(), reader.varint()
    if width * height > max_pixels:
        raise reader.corrupt(f"{width} x {height} is more than {max_pixels} pixels")
    quality, level_count = reader.take(2)
    mask = _crc16(reader.data[: reader.offset])
    levels = tuple(
        LevelEntry(reader.varint(), int.from_bytes(reader.take(2), "little") ^ mask)
        for _ in range(level_count)
    )
    reader.take(4)  # crc: verified when the payload is there
    lost = tuple(kind for kind, flag in _CHUNK_FLAGS.items() if flags & flag)
    grey = bool(flags & _GREY_FLAG)
    try:
        return Container(width, height, quality, model_id, levels, b"", grey, lost=lost)
    except ValueError as error:  # one list of limits, for writers and readers
        raise reader.corrupt(str(error)) from error


def _parse_chunks(
    reader: _Reader, header: Container, allow_truncated: bool
) -> tuple[tuple[tuple[bytes, bytes], ...], tuple[bytes, ...]]:
    """The chunks at the reader's offset, and the kinds of those that were cut off."""
    chunks: list[tuple[bytes, bytes]] = []
    for number, kind in enumerate(header.lost):
        reader.kind, start = kind, reader.offset
        try:
            size = reader.varint()
            if size > _max_chunk_bytes(kind, header.width, header.height):
                raise reader.corrupt(f"size of {size} bytes is over the limit")
            body = reader.take(size)
            crc = reader.take(4)
        except _Cut:
            if not allow_truncated:
                raise
            return tuple(chunks), header.lost[number:]
        if _crc32(reader.data[start : reader.offset - 4]) != crc:
            raise CorruptChunk(kind, start, "checksum mismatch")
        chunks.append((kind, body))
    return tuple(chunks), ()


def _max_words(width: int, height: int) -> int:
    """Most payload words that one level can need: an index costs at most 24 bits, so a word for
    every pixel of the padded picture is ample at any stride."""
    blocks = -(-width // _BLOCK) * -(-height // _BLOCK)
    return min(blocks * _BLOCK**2, 2**32 - 1)


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


def _crc16(data: bytes | bytearray) -> int:
    return binascii.crc_hqx(data, 0xFFFF)


def _crc32(*parts: bytes | bytearray) -> bytes:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc.to_bytes(4, "little")
