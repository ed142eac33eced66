"""A picture file -> the Pillow image that is known to be right, and what else the file says."""

from __future__ import annotations

import io
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

from PIL import Image

from vqcodec.errors import ImageError
from vqcodec.picture import formats, layouts
from vqcodec.picture.formats import Untested
from vqcodec.picture.layouts import Facts

__all__ = ["open_picture"]

_VECTOR_FORMATS: Final = {"EPS", "WMF"}  # Pillow would start Ghostscript or ask Windows
_TAKEN: Final = " taken as Pillow reads it"
_NAMES: Final = {"JPEG2000": "JPEG 2000", "WEBP": "WebP"}


def open_picture(file: bytes, any_format: bool) -> tuple[Image.Image, Facts]:
    """Open a file, without decoding its samples.

    Args:
        any_format: take Pillow's word for formats and layouts that no test covers, with a note.
    Raises:
        ImageError: another format, an untested layout, a vector picture.
        Whatever Pillow raises for a damaged file.
    """
    kind = formats.identify(file)
    if kind is None:
        return _open_other(file, any_format)
    try:
        facts = layouts.facts_of(kind, file)
        image = _open(kind, file)
        notes = layouts.check_opened(kind, image, file)
    except Untested as error:
        if not any_format:
            raise
        return Image.open(io.BytesIO(file)), Facts(notes=(f"{error.kind}{_TAKEN}",))
    if facts.icc:
        image.info["icc_profile"] = facts.icc
    return image, replace(facts, notes=(*facts.notes, *notes))


def _open(kind: str, file: bytes) -> Image.Image:
    if kind == "HEIF":
        return _open_heif(file)
    if kind not in Image.OPEN:
        Image.init()
    if kind not in Image.OPEN:
        raise ImageError(f"this installation of Pillow does not read {_NAMES.get(kind, kind)}")
    return Image.open(io.BytesIO(file), formats=(kind,))


def _open_heif(file: bytes) -> Image.Image:
    """Through the plug-in's class: it is not registered in the Pillow of the whole process."""
    try:
        plugin: Any = import_module("pillow_heif")
    except ImportError as error:
        needed = "HEIC and HEIF need the package pillow-heif: install vqcodec[heif]"
        raise ImageError(needed) from error
    image: Image.Image = plugin.HeifImageFile(io.BytesIO(file))
    return image


def _open_other(file: bytes, any_format: bool) -> tuple[Image.Image, Facts]:
    image = Image.open(io.BytesIO(file))
    if image.format in _VECTOR_FORMATS:
        raise ImageError("vector pictures are not supported")
    if not any_format:
        raise ImageError(f"{image.format} files are not read; convert it to PNG or use any_format")
    return image, Facts(notes=(f"{image.format}{_TAKEN}",))
