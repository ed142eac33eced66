"""Compress, decompress, verify and sample: the story in one page. Newcomers read this first.

picture -> tiles -> latent (windows: autoencoder, refine) -> index grids (grids: quantizer, by a
rate-distortion beam search) -> payload (exact prior + range coder) -> .vqc (container), and back.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqcodec import models
from vqcodec.bitstream import container
from vqcodec.bitstream.container import ALPHA, EXIF, ICC, XMP, Container
from vqcodec.bitstream.tiles import Tile, split
from vqcodec.config import TUNES, Tuning
from vqcodec.decoder.grids import Grids, box_of, read_grids
from vqcodec.encoder.allocation import quality_for
from vqcodec.encoder.rate_control import Goal, reach, set_goal
from vqcodec.encoder.tile import write_tile
from vqcodec.errors import BitstreamError, ModelError, memory_errors
from vqcodec.limits import MAX_PIXELS, QUALITIES
from vqcodec.models import Model
from vqcodec.networks import windows
from vqcodec.picture import metrics, opacity, reading
from vqcodec.picture.picture import Picture, to_pil
from vqcodec.prior.arithmetic import FloatArithmetic, fastest_with_torch
from vqcodec.prior.wavefront_scan import Step, scan
from vqcodec.resources import trim_heap

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["compress", "decompress", "decompress_picture", "sample", "verify"]


@memory_errors()
def compress(
    picture: "bytes | str | Path | Image",
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
    check: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = 1,
    notes: Callable[[str], None] | None = None,
    found: Callable[[float], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> bytes:
    """Compress a picture; `decompress` is the inverse, up to the loss.

    Instead of a quality, `bpp`, `size` or `psnr` may say what the file should come to; the quality
    that does it is found by compressing 4 or 5 times, at most 12.

    Args:
        picture: a path, the bytes of a picture file, or a Pillow image.
        quality: 0..100, continuous; bytes and PSNR grow with it. 50 where nothing is said. Between
            the ends, smooth pictures are coded somewhat finer and busy ones coarser
            (`allocation.quality_for`).
        bpp: bits of the whole file per pixel, hit within 2 %; where no quality does, the nearest.
        size: bytes of the whole file, never exceeded; less by 2 % at most, where that can be.
        psnr: dB of the decoded picture at least, over R, G and B; more by 0.05 at most, likewise.
        effort: 0, 1 or 2: how long the indices are searched; the file gets smaller, or truer.
        levels: use only the first so many levels of the model.
        tune: instead of `model`, the shipped one that is after the least squared error (`psnr`,
            where nothing is said) or after what eyes see (`ssim`).
        model: name of a shipped model, or path of a weights file.
        strip: leave out ICC, EXIF and XMP.
        check: decode the indices of the file again before it is returned.
        max_pixels: refuse larger pictures, before they are decoded.
        workers: of `check`, as of `decompress`.
        notes: told of each conversion that loses something, and of a bpp that was not hit.
        found: told the quality, the one given or the one that met the target.
        progress: told the share of the work done, 0..1.
    Returns:
        The bytes of a `.vqc` file.
    Raises:
        ImageError: the picture cannot be read or coded.
        ModelError: no such model; or `check` found that its arithmetic is not exact here.
        TargetError: no quality comes to the bpp, size or psnr; the message says what does.
        ValueError: quality, effort, levels, tune, bpp, size or psnr out of range, or too many of
            them.
    """
    goal = set_goal(bpp=bpp, size=size, psnr=psnr)
    if goal and quality is not None:
        raise ValueError(f"quality {quality} and a target of {goal.asked} {goal.unit}: one is free")
    if tune is not None and (tune not in TUNES or model is not None):
        raise ValueError(f"tune is one of {', '.join(TUNES)}, instead of a model")
    if model is None:
        model = models.TUNED[tune or "psnr"]
    quality = 50 if quality is None else quality
    if not 0 <= quality <= 100 or effort not in (0, 1, 2) or (levels is not None and levels < 1):
        raise ValueError(f"quality {quality}, effort {effort} or levels {levels} out of range")
    if isinstance(picture, bytes | str | Path):
        source = reading.read_picture(picture, strip=strip, max_pixels=max_pixels)
    else:
        source = reading.from_pil(picture, strip=strip, max_pixels=max_pixels)
    if notes:
        for note in source.notes:
            notes(note)
    loaded = models.load(model)
    chunks = [(ALPHA, opacity.encode(source.alpha) if source.alpha is not None else None)]
    chunks += [(ICC, source.icc), (EXIF, source.exif), (XMP, source.xmp)]
    encode = partial(_compress, loaded, source, chunks, effort, levels)
    if goal:
        quality, data = _hit(goal, encode, source, model, notes, progress)
    else:
        data = encode(quality, progress)
    if found:
        found(quality)
    if check:
        try:
            verify(data, model, max_pixels=source.width * source.height, workers=workers)
        except BitstreamError as error:
            raise ModelError(
                f"what was written does not decode here; see doctor: {error}"
            ) from error
    return data


def _compress(
    loaded: Model,
    source: Picture,
    chunks: Sequence[tuple[bytes, bytes | None]],
    effort: int,
    levels: int | None,
    quality: float,
    progress: Callable[[float], None] | None,
) -> bytes:
    """The file of a picture, with its chunks, at a quality that was asked for."""
    quality = quality_for(loaded.config, source.rgb, quality)
    told, (height, width) = round(quality), source.rgb.shape[:2]
    count = min(levels or len(loaded.config.levels), loaded.levels_worth(told))
    tiles = split(height, width, loaded.config.strides[0])
    coded = []
    for tile in tiles:
        advance = partial(_advance, progress, tile.number, len(tiles)) if progress else None
        coded.append(write_tile(loaded, source.rgb, tile, quality, effort, count, advance))
        if len(tiles) > 1:
            trim_heap()
    entries = list(itertools.chain(*zip(*coded, strict=True)))  # part after part
    return container.pack(
        Container(
            width=width,
            height=height,
            quality=told,
            model_id=loaded.model_id,
            level_count=count,
            parts=tuple(part for part, _ in entries),
            payload=b"".join(stream for _, stream in entries),
            grey=source.grey,
            chunks=tuple((kind, data) for kind, data in chunks if data is not None),
        )
    )


def _advance(progress: Callable[[float], None], number: int, count: int, share: float) -> None:
    progress((number + share) / count)


@memory_errors()
def decompress(
    data: bytes,
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
        levels: decode only the first so many levels: a coarser picture, sooner.
        region: (x, y, width, height): decode only this part, from the tiles that it needs.
        partial: decode what there is of a file that was cut or damaged.
        model: name or path of the weights, where they are not among those shipped.
        max_pixels: refuse larger pictures, before memory is taken.
        workers: so many processes at most read the tiles of a large picture; 1 starts none; None:
            as many as there are processors, up to 4.
        notes: told what a cut or damaged file lost.
        progress: told the share of the work done, 0..1.
    Raises:
        BitstreamError: the file is damaged, or not a `.vqc` file.
        ModelError: the model that it needs is not here.
        RegionError: the region is not inside the picture.
        ValueError: levels below 1.
    """
    return to_pil(
        decompress_picture(
            data,
            levels=levels,
            region=region,
            partial=partial,
            model=model,
            max_pixels=max_pixels,
            workers=workers,
            notes=notes,
            progress=progress,
        )
    )


@memory_errors()
def decompress_picture(
    data: bytes,
    *,
    levels: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    partial: bool = False,
    model: str | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = 1,
    notes: Callable[[str], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Picture:
    """`decompress` into plain arrays, without a second copy of a large picture for Pillow.

    Args, Raises:
        As `decompress`.
    """

    def advance(share: float) -> None:
        if progress:
            progress(0.7 * share)  # what is left is the network, about a third of the time

    found = read_grids(
        data,
        levels=levels,
        partial=partial,
        model=model,
        region=region,
        max_pixels=max_pixels,
        workers=workers,
        progress=advance,
        arithmetic=fastest_with_torch,
    )
    parsed = found.container
    if notes:
        for loss in _losses(found):
            notes(loss)
    box = box_of(parsed, region)
    rgb = _decode(found.model, found.grids, parsed.quality, parsed.height, parsed.width, box)
    alpha = None
    if (data_of_alpha := parsed.chunk(ALPHA)) is not None:
        alpha = opacity.decode(data_of_alpha, parsed.width, parsed.height)
        alpha = alpha[box.top : box.bottom, box.left : box.right]
        alpha = None if (alpha == 255).all() else alpha  # a part may be opaque where others are not
    if parsed.grey:
        rgb = np.repeat(_luma(rgb)[..., None], 3, axis=2)
    return Picture(
        rgb=rgb,
        grey=parsed.grey,
        alpha=alpha,
        icc=parsed.chunk(ICC),
        exif=parsed.chunk(EXIF),
        xmp=parsed.chunk(XMP),
    )


def _losses(found: Grids) -> Iterator[str]:
    """What a cut or damaged file has lost, in sentences."""
    parsed = found.container
    if parsed.levels_present < parsed.level_count:
        arrived = f"{parsed.levels_present} of {parsed.level_count} levels arrived whole"
        yield f"the file was cut: {arrived}"
    if found.damaged:
        tiles = container.tile_count(parsed.width, parsed.height)
        yield f"{found.damaged} of {tiles} tiles are damaged: coarser than they were, or grey"
    elif not parsed.verified and parsed.levels_present == parsed.level_count:
        yield "the payload's checksum is wrong, but all that was decoded is right"
    for kind in parsed.lost:
        yield f"its {kind.decode()} is lost"
    if parsed.surplus:
        yield f"{parsed.surplus} bytes behind the end of the file left out"


def verify(
    data: bytes, model: str | None = None, *, max_pixels: int = MAX_PIXELS, workers: int | None = 1
) -> None:
    """Decode everything but the pixels and check every checksum; needs no torch.

    In float32, so that what a file was written in, if that was int8, is checked by another one.

    Args:
        model: name or path of the weights, where they are not among those shipped.
        max_pixels: refuse larger pictures, before memory is taken.
        workers: as of `decompress`.
    Raises:
        BitstreamError: the file is damaged, or not a `.vqc` file.
        ModelError: the model that it needs is not here.
    """
    found = read_grids(
        data, model=model, max_pixels=max_pixels, workers=workers, arithmetic=FloatArithmetic
    )
    parsed = found.container
    if (alpha := parsed.chunk(ALPHA)) is not None:
        opacity.decode(alpha, parsed.width, parsed.height)


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
        seed: of the draw; the indices are the same on every machine at temperature 1.
        temperature: below 1 prefers likely indices; at 0 always the likeliest.
        top_p: draw among the likeliest indices that hold this share of the probability.
        size: (width, height) in pixels.
        quality: 0..100, the kind of picture that the prior is asked for.
    Raises:
        ModelError: no such model.
        ValueError: one of the numbers is out of range.
    Source: ancestral sampling; nucleus sampling, Holtzman et al. (2020).
    """
    if count < 1 or min(size) < 1 or quality not in range(QUALITIES):
        raise ValueError(f"count {count}, size {size} or quality {quality} out of range")
    if not (0 <= temperature < math.inf and 0 <= top_p <= 1):
        raise ValueError(f"temperature {temperature} or top_p {top_p} out of range")
    loaded = models.load(model)
    rng = np.random.default_rng(seed)

    def draw(step: Step) -> NDArray[np.int32]:
        return _draw(rng, step.frequencies, temperature, top_p)

    shapes = loaded.config.grid_shapes(size[1], size[0])[: loaded.levels_worth(quality)]
    grids = scan(loaded.prior, shapes, quality, draw, batch=count)
    pictures, box = [], Tile(0, 0, 0, size[1], size[0])
    for row in range(count):
        rgb = _decode(loaded, [grid[row] for grid in grids], quality, size[1], size[0], box)
        pictures.append(to_pil(Picture(rgb=rgb)))
    return pictures


def _decode(
    model: Model,
    grids: Sequence[NDArray[np.integer[Any]]],
    quality: int,
    height: int,
    width: int,
    box: Tile,
) -> NDArray[np.uint8]:
    """Samples (h, w, 3) of a box of the picture that grids (h_l, w_l, S_l) stand for."""
    rgb = np.empty((box.bottom - box.top, box.right - box.left, 3), np.uint8)
    for tile, samples in windows.decode(model, grids, quality, height, width, box):
        top, left = max(tile.top, box.top), max(tile.left, box.left)
        bottom, right = min(tile.bottom, box.bottom), min(tile.right, box.right)
        rows, cols = (
            slice(top - tile.top, bottom - tile.top),
            slice(left - tile.left, right - tile.left),
        )
        rgb[top - box.top : bottom - box.top, left - box.left : right - box.left] = samples[
            rows, cols
        ]
    return rgb


def _hit(
    goal: Goal,
    encode: Callable[[float, Callable[[float], None]], bytes],
    source: Picture,
    model: str,
    notes: Callable[[str], None] | None,
    progress: Callable[[float], None] | None,
) -> tuple[float, bytes]:
    """The quality that hits a goal, and the file."""
    numbers, pixels = itertools.count(), source.width * source.height

    def attempt(quality: float) -> bytes:
        number = next(numbers)

        def advance(share: float) -> None:
            if progress:
                progress(1 - 0.75 ** (number + share))  # nobody knows how many there will be

        return encode(quality, advance)

    def measure(data: bytes) -> float:
        if goal.unit == "dB":
            decoded = decompress_picture(data, model=model, max_pixels=pixels)
            return metrics.psnr_db(source.rgb, decoded.rgb)
        return 8 * len(data) / pixels if goal.unit == "bpp" else len(data)

    best = reach(goal, attempt, measure)
    if notes and not goal.will_do(best.value):
        notes(f"{best.value:.5g} {goal.unit} is the nearest to {goal.asked} {goal.unit}")
    return best.quality, best.data


def _luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey value of almost grey pixels: the mean of the three channels, rounded."""
    mean: NDArray[np.uint8] = ((rgb.astype(np.uint16).sum(2) + 1) // 3).astype(np.uint8)
    return mean


def _draw(
    rng: np.random.Generator, frequencies: NDArray[np.float64], temperature: float, top_p: float
) -> NDArray[np.int32]:
    """One index per row of frequencies (n, K): (n,)."""
    if temperature == 0:
        likeliest: NDArray[np.int32] = frequencies.argmax(-1).astype(np.int32)
        return likeliest
    chances = frequencies / frequencies.max(-1, keepdims=True)  # the largest stays 1 at any power
    if temperature != 1:
        chances **= 1 / temperature
    if top_p < 1:
        order = np.sort(chances, axis=-1)[..., ::-1]
        share = order.cumsum(-1) / order.sum(-1, keepdims=True)
        last = np.minimum((share < top_p).sum(-1, keepdims=True), chances.shape[-1] - 1)
        chances[chances < np.take_along_axis(order, last, -1)] = 0
    sums = chances.cumsum(-1)
    levels = rng.random(sums.shape[:-1])[..., None] * sums[..., -1:]
    drawn: NDArray[np.int64] = np.minimum((sums <= levels).sum(-1), chances.shape[-1] - 1)
    return drawn.astype(np.int32)
