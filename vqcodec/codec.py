"""The public functions: compress, decompress, verify, sample. Newcomers read this first.

    picture file ──▶ Picture (picture/) ──▶ tiles (bitstream/tiles)
                                              │ encoder network, refinement (networks/, encoder/)
                                              ▼
                                            latent
                                              │ quantiser: beam search for the cheapest codes
                                              ▼
                                            index grids, coarse to fine
                                              │ prior: a probability for every index (prior/)
                                              │ range coder: the fewest bits for these
                                              ▼
    .vqc file ◀── container (bitstream/) ◀── payload

Decompression goes the same way back, without any search: the payload gives the index grids
(decoder/), the codebooks the latent, the decoder network the picture.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from vqcodec import models, sampling
from vqcodec.bitstream.container import ALPHA
from vqcodec.config import Tuning
from vqcodec.decoder.decode import decode_picture
from vqcodec.decoder.grids import read_grids
from vqcodec.encoder.encode import Encoder
from vqcodec.encoder.rate_control import goal_of
from vqcodec.errors import BitstreamError, ModelError, memory_errors
from vqcodec.files import read_vqc
from vqcodec.limits import MAX_PIXELS
from vqcodec.options import Callbacks, DecodeOptions, EncodeOptions, SampleOptions
from vqcodec.picture import opacity, reading
from vqcodec.picture.picture import Picture, to_pil
from vqcodec.prior.arithmetic import FloatArithmetic

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["compress", "compress_picture", "decompress", "decompress_picture", "sample", "verify"]

FileSource = bytes | bytearray | memoryview | str | os.PathLike[str]

DEFAULT_QUALITY = 50.0


def compress(
    picture: "bytes | str | os.PathLike[str] | Image",
    quality: float | None = None,
    *,
    bpp: float | None = None,
    size: int | None = None,
    psnr: float | None = None,
    effort: int = 1,
    levels: int | None = None,
    tune: Tuning | None = None,
    model: str | None = None,
    strip: bool = False,
    any_format: bool = False,
    check: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = 1,
    notes: Callable[[str], None] | None = None,
    found: Callable[[float], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> bytes:
    """Compress a picture; `decompress` is the inverse, up to the loss.

    Args:
        picture: a path, the bytes of a picture file, or a Pillow image.
        quality: 0..100, whole or not; 50 where no target is given either.
        bpp, size, psnr: a target instead of a quality: bits per pixel, bytes or dB. The quality
            that meets it is found by compressing about 4 or 5 times, at most 12.
        effort, levels, tune, model, strip, any_format, check, max_pixels, workers: see
            `vqcodec.options.EncodeOptions`.
        notes, found, progress: functions to call meanwhile, see `vqcodec.options.Callbacks`.
    Returns:
        The bytes of a `.vqc` file.
    Raises:
        ImageError: the picture cannot be read or coded; also if there is no such file.
        ModelError: no such model; or `check` found that the file does not decode here.
        TargetError: no quality meets the target; the message says what can be had.
        TypeError, ValueError: an option has the wrong type, is out of range, or excludes another.
    """
    options = EncodeOptions(
        quality=quality,
        bpp=bpp,
        size=size,
        psnr=psnr,
        effort=effort,
        levels=levels,
        tune=tune,
        model=model,
        strip=strip,
        any_format=any_format,
        check=check,
        max_pixels=max_pixels,
        workers=workers,
    )
    return compress_picture(picture, options, Callbacks.given(notes, found, progress))


@memory_errors()
def compress_picture(
    picture: "bytes | str | os.PathLike[str] | Image",
    options: EncodeOptions,
    callbacks: Callbacks = Callbacks(),
) -> bytes:
    """`compress` with its options as one object."""
    if isinstance(picture, bytes | str | os.PathLike):
        source = reading.read_picture(
            picture,
            strip=options.strip,
            any_format=options.any_format,
            max_pixels=options.max_pixels,
        )
    else:
        source = reading.from_pil(picture, strip=options.strip, max_pixels=options.max_pixels)
    for note in source.notes:
        callbacks.notes(note)
    model = options.model or models.TUNED[options.tune or "psnr"]
    encoder = Encoder(models.load(model), source, options)
    pixels = source.width * source.height
    again = DecodeOptions(model=model, max_pixels=pixels, workers=options.workers)
    if goal := goal_of(options):

        def decode(data: bytes) -> Picture:
            return decode_picture(data, again, Callbacks())

        quality, data = encoder.at_goal(goal, decode, callbacks)
    else:
        quality = DEFAULT_QUALITY if options.quality is None else float(options.quality)
        data = encoder.at_quality(quality, callbacks.progress)
    callbacks.found(quality)
    if options.check:
        try:
            _verify(data, again)
        except BitstreamError as error:
            raise ModelError(f"what was written does not decode here: {error}") from error
    return data


def decompress(
    data: FileSource,
    *,
    levels: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    partial: bool = False,
    model: str | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = 1,
    notes: Callable[[str], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> "Image":
    """The picture in a `.vqc` file.

    Args:
        data: the bytes of the file, or its path.
        levels, region, partial, model, max_pixels, workers: see `vqcodec.options.DecodeOptions`.
        notes, progress: functions to call meanwhile, see `vqcodec.options.Callbacks`.
    Raises:
        BitstreamError: the file is damaged, or not a `.vqc` file.
        ModelError: the model that it needs is not here.
        OSError: there is no such file, or it cannot be read.
        RegionError: the region is not inside the picture.
        TypeError, ValueError: an option has the wrong type or is out of range.
    """
    options = DecodeOptions(levels, region, partial, model, max_pixels, workers)
    callbacks = Callbacks.given(notes, progress=progress)
    return to_pil(decompress_picture(data, options, callbacks))


@memory_errors()
def decompress_picture(
    data: FileSource,
    options: DecodeOptions = DecodeOptions(),
    callbacks: Callbacks = Callbacks(),
) -> Picture:
    """`decompress` into plain arrays, without a second copy of a large picture for Pillow."""
    return decode_picture(_bytes_of(data), options, callbacks)


def verify(
    data: FileSource,
    model: str | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = 1,
) -> None:
    """Decode everything but the pixels and check every checksum; loads no torch.

    The prior is computed in float32: so a file that was written with int8 is checked by another
    arithmetic. Returns nothing if all is right.

    Args:
        data: the bytes of the file, or its path.
        model, max_pixels, workers: see `vqcodec.options.DecodeOptions`.
    Raises:
        BitstreamError: the file is damaged, or not a `.vqc` file.
        ModelError: the model that it needs is not here.
        OSError: there is no such file, or it cannot be read.
        TypeError, ValueError: an option has the wrong type or is out of range.
    """
    options = DecodeOptions(model=model, max_pixels=max_pixels, workers=workers)
    _verify(_bytes_of(data), options)


@memory_errors()
def sample(
    count: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    size: tuple[int, int] = (256, 256),
    quality: int = 30,
    model: str = "photo",
) -> "list[Image]":
    """Draw new pictures from the prior.

    Args:
        count: how many.
        size: (width, height) of each, in pixels.
        seed, temperature, top_p, quality, model: see `vqcodec.options.SampleOptions`.
    Raises:
        ModelError: no such model.
        TypeError, ValueError: an option has the wrong type or is out of range.
    """
    options = SampleOptions(count, seed, temperature, top_p, size, quality, model)
    return [to_pil(picture) for picture in sampling.draw_pictures(options)]


def _verify(data: bytes, options: DecodeOptions) -> None:
    parsed = read_grids(data, options, arithmetic=FloatArithmetic).container
    if (alpha := parsed.chunk(ALPHA)) is not None:
        opacity.decode(alpha, parsed.width, parsed.height)


def _bytes_of(data: FileSource) -> bytes:
    if isinstance(data, str | os.PathLike):
        return read_vqc(os.fspath(data))
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    return data
