"""Opening, decoding and writing files with Pillow, independent of its process-wide settings.

`Image.open` and `Image.load` obey `Image.MAX_IMAGE_PIXELS` and `ImageFile.LOAD_TRUNCATED_IMAGES`,
which belong to the program that uses this library. To change them for a while would need a lock,
and a process that is forked while another thread holds it would wait for ever. So nothing here
changes them, and only some of Pillow's plug-ins still obey them; an error then names the setting.

Warnings are such a setting too: Pillow's warnings about damaged tags of TIFF and AVIF files go
where the program sends them.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from vqcodec.errors import ImageError

__all__ = ["errors", "load", "open_file", "saved"]

# Some of Pillow's plug-ins log an error besides raising it; unhandled, it would reach stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def errors(name: str) -> Iterator[None]:
    """Turn any exception into an `ImageError` of one line that begins with `name`."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:  # its text speaks of an attack
        limit = f"twice PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS}"
        raise ImageError(f"{name}: Pillow refuses its size, over {limit}; raise that") from error
    except UnidentifiedImageError as error:  # its text names a BytesIO object
        raise ImageError(f"{name}: not a picture in a format that Pillow reads") from error
    except Exception as error:  # plug-ins raise nearly anything for a damaged file
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ImageError(f"{name}: {reason}") from error


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG file; of an MPO file, which is several in one, the first picture."""

    def load_read(self, read_bytes: int) -> bytes:
        assert self.fp is not None
        return self.fp.read(read_bytes)  # Pillow's may append the end that a file lacks

    def _read_dpi_from_exif(self) -> None:
        """Not needed, and Pillow's warns about damaged EXIF."""


class _Tiff(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        if self._im is None and hasattr(self, "_tile_size"):  # or Pillow checks the size
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()


_OWN: Final[dict[str, Callable[..., ImageFile.ImageFile]]] = {"JPEG": _Jpeg, "TIFF": _Tiff}


def open_file(data: bytes, formats: Collection[str] | None = None) -> ImageFile.ImageFile:
    """Open a picture file as `Image.open` does, but without its check of the size.

    Args:
        formats: Pillow's names of the formats to try; None: all.
    Raises:
        UnidentifiedImageError: the file has none of these formats.
    """
    tried: set[str] = set()
    for load_plugins in (Image.preinit, Image.init):  # the common ones, all
        load_plugins()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            factory, accepts = Image.OPEN[name]
            accepted = not accepts or accepts(data[:16])  # a string says what is not installed
            if isinstance(accepted, str) or not accepted or (formats and name not in formats):
                continue
            try:
                return _OWN.get(name, factory)(io.BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # as `Image.open` does
                continue
    raise UnidentifiedImageError


class _Strict:
    """A decoder of Pillow's that raises if the samples are truncated or damaged.

    By itself, `ImageFile.load` ignores both if `LOAD_TRUNCATED_IMAGES` is set.
    """

    def __init__(self, mode: str, name: str, *arguments: Any) -> None:
        self._decoder = Image._getdecoder(mode, name, arguments)
        self._wants_more = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def setimage(self, *arguments: Any) -> None:
        self._decoder.setimage(*arguments)
        self._wants_more = not self._decoder.pulls_fd

    def decode(self, data: bytes) -> tuple[int, int]:
        used, error = self._decoder.decode(data)
        self._wants_more = self._wants_more and used >= 0 and error >= 0
        if error < 0:
            raise OSError("its samples are damaged")
        return used, error

    def cleanup(self) -> None:
        self._decoder.cleanup()
        if self._wants_more:
            raise OSError("image file is truncated")


Image.register_decoder("vqcodec", _Strict)  # type: ignore[arg-type]  # the methods are all there


def load(image: ImageFile.ImageFile) -> None:
    """Decode the samples of a file that `open_file` opened.

    Raises:
        Whatever Pillow raises if the file is truncated or damaged, whatever the program has set.
    """
    if not image.tile and image.format != "WEBP" and ImageFile.LOAD_TRUNCATED_IMAGES:
        # A container of other files, which its plug-in decodes by itself.
        setting = "PIL.ImageFile.LOAD_TRUNCATED_IMAGES"
        reason = f"cannot be checked for truncation while {setting} is set"
        raise ImageError(f"{image.format} files {reason}")
    image.tile = [
        tile if tile[0] == "libtiff" else _strict(tile)  # strict by itself
        for tile in image.tile
    ]
    image.load()


def _strict(tile: ImageFile._Tile) -> ImageFile._Tile:
    name, extents, offset, arguments = tile
    if not isinstance(arguments, tuple):
        arguments = () if arguments is None else (arguments,)
    return ImageFile._Tile("vqcodec", extents, offset, (name, *arguments))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture file of a format, such as `PNG`."""
    buffer = io.BytesIO()
    with errors(f"cannot write {kind}"):
        image.save(buffer, kind, **options)
    return buffer.getvalue()
