"""Other codecs to compare with, as far as this Pillow has them."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, features

from vqcodec.errors import ImageError

__all__ = ["BASELINES", "Baseline"]


@dataclass(frozen=True)
class Baseline:
    """A codec of Pillow.

    Attributes:
        feature: what Pillow calls the library that it needs.
        settings: from small files to good ones, about 0.03 to 2 bits per pixel on photographs.
        options: a setting -> arguments of `Image.save`.
    """

    format: str
    feature: str
    settings: tuple[float, ...]
    options: Callable[[float], dict[str, Any]]

    @property
    def available(self) -> bool:
        # Pillow warns when asked for what it has not heard of, such as AVIF before 11.3.
        known = self.feature in (*features.modules, *features.codecs)
        return known and bool(features.check(self.feature))

    @property
    def version(self) -> str | None:
        """Of the library that Pillow uses."""
        return features.version(self.feature) if self.available else None

    def encode(self, picture: Image.Image, setting: float) -> bytes:
        """The bytes of a file.

        Raises:
            ImageError: the format has no room for the picture.
        """
        file = io.BytesIO()
        try:
            picture.save(file, self.format, **self.options(setting))
        except (OSError, ValueError, RuntimeError) as error:  # they differ from format to format
            raise ImageError(f"{self.format} at {setting:g}: {error}") from error
        return file.getvalue()


def _jpeg2000(bpp: float) -> dict[str, Any]:
    # The rate is a ratio to 24 bits.
    rate = {"quality_mode": "rates", "quality_layers": [24 / bpp]}
    return {**rate, "irreversible": True, "mct": 1}


# Slow and good, as WebP's method 6 is: AVIF at Pillow's own speed 6 has 0.2 dB less on photographs.
BASELINES = {
    "jpeg": Baseline(
        "JPEG",
        "jpg",
        (1, 5, 8, 12, 17, 23, 30, 40, 50, 62, 75, 85),
        lambda quality: {"quality": int(quality), "subsampling": "4:2:0", "optimize": True},
    ),
    "webp": Baseline(
        "WEBP",
        "webp",
        (0, 1, 3, 6, 10, 16, 25, 40, 55, 70, 80, 88),
        lambda quality: {"quality": int(quality), "method": 6},
    ),
    "avif": Baseline(
        "AVIF",
        "avif",
        (1, 8, 14, 20, 26, 32, 38, 45, 52, 60, 68, 78),
        lambda quality: {"quality": int(quality), "subsampling": "4:2:0", "speed": 4},
    ),
    "jpeg2000": Baseline(
        "JPEG2000",
        "jpg_2000",
        (0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0),
        _jpeg2000,
    ),
}
