"""A picture file -> the Pillow image that is known to be right, and what else the file says."""

from __future__ import annotations

import io
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

from PIL import ImageFile, UnidentifiedImageError, features

from vqcodec.errors import ImageError
from vqcodec.picture import formats, layouts, pillow
from vqcodec.picture.formats import Untested
from vqcodec.picture.layouts import Facts

__all__ = ["open_picture"]

_VECTOR_FORMATS: Final = {"EPS", "WMF"}  # Pillow would start Ghostscript or ask Windows
_TAKEN: Final = " taken as Pillow reads it"
_OPTIONAL: Final = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # as Pillow calls it
_NAMES: Final = {"JPEG2000": "JPEG 2000", "WEBP": "WebP"}


def open_picture(file: bytes, any_format: bool) -> tuple[ImageFile.ImageFile, Facts]:
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
        return pillow.open_file(file), Facts(notes=(f"{error.kind}{_TAKEN}",))
    if facts.icc:
        image.info["icc_profile"] = facts.icc
    return image, replace(facts, notes=(*facts.notes, *notes))


def _open(kind: str, file: bytes) -> ImageFile.ImageFile:
    if kind == "HEIF":
        return _open_heif(file)
    name = _NAMES.get(kind, kind)
    try:
        return pillow.open_file(file, {kind})
    except UnidentifiedImageError as error:
        if kind in _OPTIONAL and not features.check(_OPTIONAL[kind]):
            raise ImageError(f"this installation of Pillow does not read {name}") from error
        raise ImageError(f"damaged: Pillow cannot read this {name} file") from error


def _open_heif(file: bytes) -> ImageFile.ImageFile:
    """Through the plug-in's class: it is not registered in the Pillow of the whole process."""
    try:
        plugin: Any = import_module("pillow_heif")
    except ImportError as error:
        needed = "HEIC and HEIF need the package pillow-heif: install vqcodec[heif]"
        raise ImageError(needed) from error
    image: ImageFile.ImageFile = plugin.HeifImageFile(io.BytesIO(file))
    return image


def _open_other(file: bytes, any_format: bool) -> tuple[ImageFile.ImageFile, Facts]:
    image = pillow.open_file(file)
    if image.format in _VECTOR_FORMATS:
        raise ImageError("vector pictures are not supported")
    if not any_format:
        raise ImageError(f"{image.format} files are not read; convert it to PNG or use any_format")
    return image, Facts(notes=(f"{image.format}{_TAKEN}",))
