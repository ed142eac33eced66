"""How large things may be. The limits of the format are in docs/format.md, section 6, too."""

from typing import Final

__all__ = [
    *("MAX_LEVELS", "MAX_METADATA_BYTES", "MAX_PIXELS", "MAX_SIDE"),
    *("QUALITIES", "TILE"),
]

MAX_SIDE: Final = 2**24  # samples
MAX_PIXELS: Final = 500_000_000  # default of everything that reads pictures or files
MAX_LEVELS: Final = 64
MAX_METADATA_BYTES: Final = 2**26  # per ICC, EXIF or XMP chunk
TILE: Final = 1024  # no tile is larger than this, in pixels on a side
QUALITIES: Final = 101  # 0..100, as files signal them
