"""Every exception that vqcodec raises on purpose, as one tree.

VqcodecError                    everything vqcodec raises on purpose
├── ImageError                  the picture cannot be read, coded or written: mode, size, damage
├── BitstreamError              the file cannot be decoded
│   ├── NotVqcodecFile          wrong magic bytes
│   ├── UnsupportedVersion      written by a newer format; the message says which
│   └── CorruptChunk            truncated, checksum mismatch, field out of range
├── ModelError                  unknown model, or weights with another hash than the file names
├── RegionError                 the region asked for does not lie inside the picture
└── TargetError                 no quality gives the bytes, bpp or PSNR asked for

`ValueError` and `TypeError` mark a caller's mistake and are not part of the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "BitstreamError",
    "CorruptChunk",
    "ImageError",
    "ModelError",
    "NotVqcodecFile",
    "RegionError",
    "TargetError",
    "UnsupportedVersion",
    "VqcodecError",
    "memory_errors",
]

# How torch, which raises RuntimeError, says that there is not enough memory.
_OUT_OF_MEMORY = ("t allocate memory", "not enough memory", "out of memory", "bad_alloc")


class VqcodecError(Exception):
    """Base of the tree: `except VqcodecError` catches all of it. Messages are one line."""


class ImageError(VqcodecError):
    """The picture cannot be read, coded or written: damaged, wrong mode or wrong size."""


class BitstreamError(VqcodecError):
    """The file cannot be decoded."""


class NotVqcodecFile(BitstreamError):
    """The first bytes are not those of a `.vqc` file."""


class UnsupportedVersion(BitstreamError):
    """The file was written by a newer version of the format; the message says which."""


class CorruptChunk(BitstreamError):
    """A part of the file is truncated, fails its checksum, or has a field out of range.

    Attributes:
        kind: the part of the file, for example `b"header"`, `b"payload"` or `b"ICC"`.
        offset: byte offset in the file (or in the chunk, where only that is known).
        reason: what is wrong, without the place.
    """

    def __init__(self, kind: bytes, offset: int, reason: str) -> None:
        super().__init__(f"chunk {kind.decode('latin-1')!r} at byte {offset}: {reason}")
        self.kind, self.offset, self.reason = kind, offset, reason

    def __reduce__(self) -> tuple[type[CorruptChunk], tuple[bytes, int, str]]:
        # Exceptions are pickled through `args`, which here holds the message: process pools need
        # the three fields.
        return type(self), (self.kind, self.offset, self.reason)


class ModelError(VqcodecError):
    """The model is unknown, or its weights have another hash than the file names."""


class RegionError(VqcodecError, ValueError):
    """The region asked for does not lie inside the picture."""


class TargetError(VqcodecError):
    """No quality gives the bytes, bpp or PSNR asked for; the message says what can be reached."""


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise what torch says of a lack of memory as the MemoryError that it is."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise MemoryError(str(error).splitlines()[0]) from error
        raise
