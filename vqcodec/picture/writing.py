"""Pictures as files of the formats that people use."""

from __future__ import annotations

from typing import Any, Final

from PIL import PngImagePlugin

from vqcodec.errors import ImageError
from vqcodec.picture import metadata, pillow
from vqcodec.picture.picture import Picture, to_pil

__all__ = ["OUTPUT_EXTENSIONS", "left_out", "write_picture"]

_MAX_SIDES: Final = {"JPEG": 65500, "WEBP": 16383}
_FORMATS: Final = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "bmp": "BMP",
    "ppm": "PPM",
    "pgm": "PPM",
    "pnm": "PPM",
}
OUTPUT_EXTENSIONS: Final = tuple(f".{name}" for name in _FORMATS)
_NO_ALPHA: Final = {"JPEG", "BMP", "PPM"}
_NO_METADATA: Final = {"BMP", "PPM"}
# Decoding has lost enough: every format is told to lose nothing more, JPEG as little as sensible.
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}


def write_picture(picture: Picture, path_format: str) -> bytes:
    """A picture file's bytes; `read_picture` reads them.

    PNG, WebP and TIFF are written lossless, JPEG at quality 95 without chroma subsampling. BMP and
    PPM have no place for metadata and leave it out.

    Args:
        path_format: a file name, extension or format: `out.png`, `.png` or `png`.
    Raises:
        ImageError: unknown extension, opacity that the format cannot hold, over a format's limits.
    """
    extension = path_format.rpartition(".")[2].lower()
    if extension not in _FORMATS:
        known = " ".join(OUTPUT_EXTENSIONS)
        raise ImageError(f"cannot write .{extension} files; known: {known}")
    kind = _FORMATS[extension]
    if picture.alpha is not None and kind in _NO_ALPHA:
        raise ImageError(f"{kind} cannot hold the picture's transparency; write PNG instead")
    if (side := max(picture.width, picture.height)) > _MAX_SIDES.get(kind, side):
        raise ImageError(f"{kind} cannot hold a side of {side} pixels; write PNG instead")
    with pillow.errors(f"cannot write {kind}"):  # as EXIF data is parsed for TIFF
        options = _metadata_options(picture, kind) | _OPTIONS.get(kind, {})
    if kind == "TIFF" and picture.exif:
        # Compressed, it is written by libtiff, which fails on camera settings, and crashes on tags
        # that were made to.
        del options["compression"]
    return pillow.saved(to_pil(picture), kind, **options)


def left_out(picture: Picture, path_format: str) -> str | None:
    """Which of ICC, EXIF and XMP `write_picture` has no place for, in a sentence; None if none."""
    kind = _FORMATS.get(path_format.rpartition(".")[2].lower())
    parts = [("ICC", picture.icc), ("EXIF", picture.exif), ("XMP", picture.xmp)]
    lost = [name for name, part in parts if part and kind in _NO_METADATA]
    if kind == "WEBP" and _for_grey(picture.icc):
        lost = ["grey, nor for its ICC profile"]
    return f"{kind} has no place for {', '.join(lost)}" if lost else None


def _for_grey(icc: bytes | None) -> bool:
    return icc is not None and icc[16:20] == b"GRAY"


def _metadata_options(picture: Picture, kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if kind in _NO_METADATA:
        return options
    if picture.icc and not (kind == "WEBP" and _for_grey(picture.icc)):  # WebP has no grey
        options["icc_profile"] = picture.icc
    if kind == "TIFF":  # one directory holds both, and what TIFF says of the samples
        tags = metadata.descriptive_exif(picture.exif)
        if picture.xmp:
            tags[700] = picture.xmp
        return options | ({"exif": tags} if len(tags) else {})
    if picture.exif:
        options["exif"] = b"Exif\0\0" + picture.exif
    if picture.xmp and kind == "PNG":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    elif picture.xmp:
        options["xmp"] = picture.xmp
    return options
