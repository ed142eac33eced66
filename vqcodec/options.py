"""What compression and decompression can be asked for: frozen, and checked when built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Final

from vqcodec.config import TUNES, Tuning
from vqcodec.limits import MAX_PIXELS, QUALITIES

__all__ = ["LEAST", "MOST", "Callbacks", "DecodeOptions", "EncodeOptions", "SampleOptions"]

LEAST, MOST = 1e-30, 1e30  # bounds of a target, whatever its unit
MAX_EFFORT: Final = 2
BEST: Final = QUALITIES - 1


def ignore(_: Any) -> None:
    """A callback that does nothing."""


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called while the work goes on.

    Attributes:
        notes: called with a sentence for each conversion, loss or missed target.
        found: called with the quality, the one given or the one that met the target.
        progress: called with the share of the work done, 0..1.
    """

    notes: Callable[[str], None] = ignore
    found: Callable[[float], None] = ignore
    progress: Callable[[float], None] = ignore

    @classmethod
    def given(
        cls,
        notes: Callable[[str], None] | None = None,
        found: Callable[[float], None] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Callbacks:
        """Those that are not None."""
        return cls(notes or ignore, found or ignore, progress or ignore)


@dataclass(frozen=True)
class EncodeOptions:
    """How to compress a picture.

    Attributes:
        quality: 0..100, whole or not; bytes and PSNR grow with it. Between the ends, smooth
            pictures are coded somewhat finer and busy ones coarser (`encoder.allocation`).
        bpp: instead of a quality, bits of the whole file per pixel: hit within 2 %, else the
            nearest that a quality gives.
        size: instead, bytes of the whole file: never exceeded, and at most 2 % less where a
            quality gives that.
        psnr: instead, dB of the decoded picture over R, G and B: at least this, and at most 0.05
            more where a quality gives that.
        effort: 0, 1 or 2: how long the indices are searched; higher gives smaller files.
        levels: use only the first so many levels of the model, coarse first.
        tune: the shipped model for the least squared error (`psnr`, the default) or for MS-SSIM
            (`ssim`); instead of `model`.
        model: name of a shipped model, or path of a weights file.
        strip: leave out ICC, EXIF and XMP.
        any_format: also take formats and layouts that no test covers, as Pillow reads them.
        check: decode the file, all but its pixels, before it is returned.
        max_pixels: refuse larger pictures, before they are decoded.
        workers: processes that `check` may use, as in `DecodeOptions`.
    Raises:
        TypeError, ValueError: an option has the wrong type, is out of range, or excludes another.
    """

    quality: float | None = None
    bpp: float | None = None
    size: int | None = None
    psnr: float | None = None
    effort: int = 1
    levels: int | None = None
    tune: Tuning | None = None
    model: str | None = None
    strip: bool = False
    any_format: bool = False
    check: bool = False
    max_pixels: int = MAX_PIXELS
    workers: int | None = 1

    def __post_init__(self) -> None:
        _check_number("quality", self.quality, 0, BEST)
        _check_number("bpp", self.bpp, LEAST, MOST)
        _check_integer("size", self.size, 1, int(MOST))
        _check_number("psnr", self.psnr, LEAST, MOST)
        _check_integer("effort", self.effort, 0, MAX_EFFORT)
        _check_integer("levels", self.levels, 1)
        _check_integer("max_pixels", self.max_pixels, 1)
        _check_integer("workers", self.workers, 1)
        if self.tune is not None and self.tune not in TUNES:
            raise ValueError(f"tune must be one of {', '.join(TUNES)}, not {self.tune!r}")
        _check_alone(quality=self.quality, bpp=self.bpp, size=self.size, psnr=self.psnr)
        _check_alone(tune=self.tune, model=self.model)


@dataclass(frozen=True)
class DecodeOptions:
    """How to decompress a file.

    Attributes:
        levels: decode only the first so many levels: a coarser picture, sooner.
        region: (x, y, width, height) in pixels: decode only this part, from the tiles it needs.
        partial: decode what there is of a file that was cut or damaged.
        model: path of the weights file, where the file needs one that is not shipped.
        max_pixels: refuse larger pictures, before memory is taken.
        workers: at most so many processes read the tiles of a large picture, this one included;
            None: as many as there are processors, up to 4.
    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    levels: int | None = None
    region: tuple[int, int, int, int] | None = None
    partial: bool = False
    model: str | None = None
    max_pixels: int = MAX_PIXELS
    workers: int | None = 1

    def __post_init__(self) -> None:
        _check_integer("levels", self.levels, 1)
        _check_integer("max_pixels", self.max_pixels, 1)
        _check_integer("workers", self.workers, 1)
        if self.region is not None:
            _check_integers("region", self.region, "(x, y, width, height)", 4)


@dataclass(frozen=True)
class SampleOptions:
    """What pictures to draw.

    Attributes:
        count: how many.
        seed: of the draw; at temperature 1 the indices are the same on every machine.
        temperature: below 1 prefers likely indices; at 0 always the likeliest.
        top_p: draw among the likeliest indices that hold this share of the probability.
        size: (width, height) in pixels.
        quality: 0..100, whole: the prior draws what files of this quality hold.
        model: name of a shipped model, or path of a weights file.
    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    count: int
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    size: tuple[int, int] = (256, 256)
    quality: int = 30
    model: str = "photo"

    def __post_init__(self) -> None:
        _check_integer("count", self.count, 1)
        _check_integer("seed", self.seed, 0)
        _check_number("temperature", self.temperature, 0, MOST)
        _check_number("top_p", self.top_p, 0, 1)
        _check_integers("size", self.size, "(width, height)", 2)
        _check_integer("width", self.size[0], 1)
        _check_integer("height", self.size[1], 1)
        _check_integer("quality", self.quality, 0, BEST)


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not least <= value <= most:  # type: ignore[operator]  # not so of nan either
        raise ValueError(f"{name} must be from {least:g} to {most:g}, not {value}")


def _check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    if value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if int(value) < least or (most is not None and int(value) > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bounds}, not {value}")


def _check_integers(name: str, values: object, form: str, count: int) -> None:
    alike = isinstance(values, tuple | list) and len(values) == count
    if not alike or any(not isinstance(v, Integral) for v in values):  # type: ignore[attr-defined]
        raise TypeError(f"{name} must be {form}, whole numbers, not {values!r}")


def _check_alone(**options: object) -> None:
    """Raise ValueError where more than one of these options is given."""
    if len(given := [name for name, value in options.items() if value is not None]) > 1:
        raise ValueError(f"{' and '.join(given)} exclude one another")
