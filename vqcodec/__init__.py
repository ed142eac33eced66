"""vqcodec: a learned image codec. VQ-VAE indices, an integer PixelCNN prior, range coding.

    import vqcodec

    data = vqcodec.compress("photo.png", quality=50)
    picture = vqcodec.decompress(data)  # a PIL.Image

Functions: `compress`, `decompress`, `verify` and `sample`; each has its options in its docstring.
Errors: the kinds of `VqcodecError`, see `vqcodec.errors`. Both load when they are first used, so
`import vqcodec` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqcodec.codec import compress, decompress, sample, verify
    from vqcodec.errors import (
        BitstreamError,
        CorruptChunk,
        ImageError,
        ModelError,
        NotVqcodecFile,
        RegionError,
        TargetError,
        UnsupportedVersion,
        VqcodecError,
    )

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
    "__version__",
    "compress",
    "decompress",
    "sample",
    "verify",
]
__version__ = "0.1.0"

_CODEC = {"compress", "decompress", "sample", "verify"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vqcodec' has no attribute {name!r}")
    return getattr(import_module("vqcodec.codec" if name in _CODEC else "vqcodec.errors"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
