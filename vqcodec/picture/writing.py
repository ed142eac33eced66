"""`Picture` -> files of common formats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from PIL import PngImagePlugin

from vqcodec.errors import ImageError
from vqcodec.picture import metadata, pillow
from vqcodec.picture.picture import Picture, to_pil

__all__ = ["OUTPUT_EXTENSIONS", "caveat", "write_picture"]

_MAX_SIDES: Final = {"JPEG": 65500, "WEBP": 16383}
_MAX_JPEG_PROFILE: Final = 255 * 65519  # a profile has at most 255 segments
_MAX_PNG_PROFILE: Final = 2**20  # by default, Pillow refuses to open files with a larger one
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
# The codec has lost detail already: lossless where the format can be, JPEG at high quality.
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}


def write_picture(picture: Picture, path_format: str) -> bytes:
    """A picture file's bytes; `read_picture` reads them.

    PNG, WebP and TIFF are written lossless, JPEG at quality 95 without chroma subsampling.
    Metadata that the format cannot hold is left out; `caveat` says which. A grey picture with a
    colour profile for RGB is written as RGB, because a profile must fit the samples of its file.

    Args:
        path_format: a file name, extension or format: `out.png`, `.png` or `png`.
    Raises:
        ImageError: the extension is unknown, the format cannot hold opacity, or the picture is
            over a limit of the format.
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
    with pillow.errors(f"cannot write {kind}"):  # TIFF: parses EXIF
        options = _metadata_options(picture, kind) | _OPTIONS.get(kind, {})
    if kind == "TIFF" and picture.exif:
        # Pillow writes compressed TIFF through libtiff, which fails on camera settings and crashes
        # on some malformed tags.
        del options["compression"]
    grey = picture.grey and (_space(picture) != b"RGB " or kind in _NO_METADATA)
    # Without metadata: Pillow would write all that it finds in `info`.
    bare = replace(picture, grey=grey, icc=None, exif=None, xmp=None)
    return pillow.saved(to_pil(bare), kind, **options)


def caveat(picture: Picture, path_format: str) -> str | None:
    """A sentence on what `write_picture` leaves out, or which readers refuse its file; or None."""
    kind = _FORMATS.get(path_format.rpartition(".")[2].lower(), "")
    parts = [("ICC", picture.icc), ("EXIF", picture.exif), ("XMP", picture.xmp)]
    lost = [name for name, part in parts if part and kind in _NO_METADATA]
    if not lost and picture.icc and (obstacle := _obstacle(picture, kind)):
        lost = [obstacle]
    if lost:
        return f"{kind} has no place for {', '.join(lost)}"
    if kind == "PNG" and picture.icc and len(picture.icc) > _MAX_PNG_PROFILE:
        what = f"PNG with an ICC profile of {len(picture.icc)} bytes"
        return f"{what}: Pillow asks for a larger PIL.PngImagePlugin.MAX_TEXT_CHUNK"
    return None


def _space(picture: Picture) -> bytes:
    """The colour space of the picture's profile, `RGB ` or `GRAY`; empty without one."""
    return picture.icc[16:20] if picture.icc else b""


def _obstacle(picture: Picture, kind: str) -> str | None:
    """Why a format cannot hold the picture's colour profile, as its noun; None if it can."""
    size = len(picture.icc or b"")
    if _space(picture) == b"GRAY" and picture.grey:
        if kind == "WEBP":
            return "grey, nor for its ICC profile"
    elif _space(picture) != b"RGB ":
        return "an ICC profile for other samples"
    if kind == "JPEG" and size > _MAX_JPEG_PROFILE:
        return f"an ICC profile of {size} bytes"
    return None


def _metadata_options(picture: Picture, kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if kind in _NO_METADATA:
        return options
    if picture.icc and not _obstacle(picture, kind):
        options["icc_profile"] = picture.icc
    if kind == "TIFF":  # EXIF and XMP are tags in the directory that describes the samples
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
