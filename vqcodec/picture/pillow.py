"""What reading and writing have in common: no exception or warning of Pillow leaves them."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from vqcodec.errors import ImageError
from vqcodec.limits import MAX_METADATA_BYTES, MAX_PIXELS

__all__ = ["guard", "saved"]

_lock = threading.RLock()
# Some of Pillow's plug-ins log an error besides raising it; unhandled, it would reach stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def guard(name: str, max_pixels: int) -> Iterator[None]:
    """Run Pillow with our pixel limit, without warnings, its exceptions as `ImageError`."""
    # The limits and the warning filter are global to the process, hence the lock.
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        previous = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = max_pixels, MAX_METADATA_BYTES
        try:
            yield
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        except Image.DecompressionBombError as error:  # its text names twice our limit
            raise ImageError(f"{name}: it is over the limit of {max_pixels} pixels") from error
        except UnidentifiedImageError as error:  # its text names a BytesIO object
            raise ImageError(f"{name}: not a picture in a format that Pillow reads") from error
        except Exception as error:  # plug-ins raise nearly anything for a damaged file
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ImageError(f"{name}: {reason}") from error
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = previous


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture file of a format, such as `PNG`."""
    buffer = io.BytesIO()
    with guard(f"cannot write {kind}", MAX_PIXELS):
        image.save(buffer, kind, **options)
    return buffer.getvalue()
