"""PNG files: checks of all chunks; the colour profile, XMP and EXIF among them.

Source: PNG specification, third edition, section 5.3 (chunks) and 11.3 (text, `iCCP`, `acTL`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from vqcodec.errors import ImageError
from vqcodec.limits import MAX_METADATA_BYTES

__all__ = ["MAGIC", "RAW_EXIF", "split"]

MAGIC: Final = b"\x89PNG\r\n\x1a\n"
RAW_EXIF: Final = "Raw profile type exif"  # keyword of text in which ImageMagick writes EXIF
_XMP: Final = "XML:com.adobe.xmp"
_TEXT: Final = {b"tEXt", b"zTXt", b"iTXt"}


def split(data: bytes) -> tuple[bytes, dict[str, bytes | str]]:
    """Take text and colour profile out of a PNG file, so that Pillow does not meet them.

    Pillow refuses the whole file if a text is over `PngImagePlugin.MAX_TEXT_CHUNK`, a setting of
    the process. It also mixes text with facts: the keyword `transparency` would be taken for a
    transparent colour.

    Returns:
        The file without these chunks; what Pillow's `info` would have of them: `icc_profile`,
        `xmp`, `RAW_EXIF`. A damaged profile is empty.
    Raises:
        ImageError: a chunk is truncated or damaged, or the last one, `IEND`, is missing. Pillow's
            own `Image.verify` overlooks such damage if `ImageFile.LOAD_TRUNCATED_IMAGES` is set.
    """
    info: dict[str, bytes | str] = {}
    kept: list[memoryview] = [memoryview(data)[: len(MAGIC)]]
    for start, end in _chunks(data):
        kind, body = data[start + 4 : start + 8], memoryview(data)[start + 8 : end - 4]
        if kind in _TEXT:
            _read_text(kind, bytes(body), info)
        elif kind == b"iCCP":
            _, _, packed = bytes(body).partition(b"\0")
            info.setdefault("icc_profile", _inflated(packed[1:]))
        elif kind != b"acTL" or 0 < int.from_bytes(body[:4], "big") <= 2**31:
            kept.append(memoryview(data)[start:end])  # of other numbers of frames, Pillow warns
    return b"".join(kept), info


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each chunk (size, kind, body, checksum) begins and ends."""
    end, kind = len(MAGIC), b""
    while kind != b"IEND":
        start, kind = end, data[end + 4 : end + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if len(data) < end or not kind:
            raise ImageError("image file is truncated")
        crc = int.from_bytes(data[end - 4 : end], "big")
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != crc:
            raise ImageError(f"damaged: the checksum of its chunk {kind!r} is wrong")
        yield start, end


def _read_text(kind: bytes, body: bytes, info: dict[str, bytes | str]) -> None:
    keyword, _, text = body.partition(b"\0")
    name = keyword.decode("latin-1")
    if name not in (_XMP, RAW_EXIF):
        return
    if kind == b"zTXt":
        text = _inflated(text[1:])
    elif kind == b"iTXt":
        packed, (_, _, text) = text[:1], (text[2:].split(b"\0", 2) + [b"", b""])[:3]
        text = text if packed == b"\0" else _inflated(text)
    if name == _XMP:
        info.setdefault("xmp", text)
    else:
        info.setdefault(RAW_EXIF, text.decode("latin-1"))


def _inflated(packed: bytes) -> bytes:
    """Decompressed bytes, at most one more than the limit; none if they are damaged."""
    try:
        return zlib.decompressobj().decompress(packed, MAX_METADATA_BYTES + 1)
    except zlib.error:
        return b""
