"""Which picture formats are read: their names, their suffixes, their first bytes.

A format is in this list when tests compare what Pillow makes of it with samples that are known by
other means. No NumPy and no Pillow here: the command line imports it for the suffixes alone.
"""

from __future__ import annotations

from typing import Final

from vqcodec.errors import ImageError

__all__ = ["FORMATS", "SUFFIXES", "Untested", "identify"]

FORMATS: Final[dict[str, tuple[str, ...]]] = {  # Pillow's name -> suffixes
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    "JPEG2000": (".j2c", ".j2k", ".jp2", ".jpc"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES: Final = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

_STARTS: Final = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",  # the bare codestream
    **{b"P%d" % kind: "PPM" for kind in range(1, 7)},
}
_HEIF_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


class Untested(ImageError):
    """A file of a kind that Pillow may read, but which no test covers."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"{name} of an untested kind ({what}); convert it to PNG or use any_format"
        )
        self.kind = f"{name} of an untested kind ({what})"


def identify(data: bytes) -> str | None:
    """The format of a file by its first bytes; None where it is none of `FORMATS`."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 4096)
        brands = {data[start : start + 4] for start in (8, *range(16, end - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if brands & _HEIF_BRANDS else None
    return next((name for start, name in _STARTS.items() if data.startswith(start)), None)
