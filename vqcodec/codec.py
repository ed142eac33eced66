"""Compress, decompress, verify and sample: the story in one page. Newcomers read this first.

picture -> latent (autoencoder) -> index grids (quantizer, by rate-distortion search along the
prior's walk) -> payload (exact prior + range coder) -> .vqc (container), and back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqcodec import container, image, registry
from vqcodec.coder import IndexGrid, decode_grids, encode_grids
from vqcodec.container import ALPHA, EXIF, ICC, XMP, Container, LevelEntry
from vqcodec.errors import CorruptChunk, memory_errors
from vqcodec.exact_prior import Front, walk
from vqcodec.image import Picture
from vqcodec.registry import Model
from vqcodec.search import search

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["Grids", "compress", "decompress", "read_grids", "sample", "verify"]


@memory_errors()
def compress(
    picture: "bytes | str | Path | Image",
    quality: float = 50,
    *,
    effort: int = 1,
    levels: int | None = None,
    model: str = "photo",
    strip: bool = False,
    notes: Callable[[str], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> bytes:
    """Compress a picture; `decompress` is the inverse, up to the loss.

    Args:
        picture: a path, the bytes of a picture file, or a Pillow image.
        quality: 0..100, continuous; bytes and PSNR grow with it.
        effort: 0 picks indices by marginal code lengths, 1 by the prior's real ones.
        levels: use only the first so many levels of the model.
        model: name of a shipped model, or path of a weights file.
        strip: leave out ICC, EXIF and XMP.
        notes: told of each conversion that loses something.
        progress: told the share of the work done, 0..1.
    Returns:
        The bytes of a `.vqc` file.
    Raises:
        ImageError: the picture cannot be read or coded.
        ModelError: no such model.
        ValueError: quality, effort or levels out of range.
    """
    if not 0 <= quality <= 100 or effort not in (0, 1) or (levels is not None and levels < 1):
        raise ValueError(f"quality {quality}, effort {effort} or levels {levels} out of range")
    if isinstance(picture, bytes | str | Path):
        source = image.read_picture(picture, strip=strip)
    else:
        source = image.from_pil(picture, strip=strip)
    if notes:
        for note in source.notes:
            notes(note)
    loaded = registry.load(model)
    told = round(quality)
    count = min(levels or len(loaded.config.levels), loaded.levels_worth(told))
    latent = _encode(loaded, source.rgb, told)
    if effort == 0:
        grids = _quantize(loaded, latent, quality, count)
        payload, ends = encode_grids(loaded.prior, grids, told)
    else:
        grids, payload, ends = search(loaded, latent, quality, count, progress)
    starts = [0, *ends[:-1]]
    chunks = [(ALPHA, image.encode_alpha(source.alpha) if source.alpha is not None else None)]
    chunks += [(ICC, source.icc), (EXIF, source.exif), (XMP, source.xmp)]
    return container.pack(
        Container(
            width=source.rgb.shape[1],
            height=source.rgb.shape[0],
            quality=told,
            model_id=loaded.model_id,
            levels=tuple(
                LevelEntry(end - start, container.checksum_indices(grid))
                for start, end, grid in zip(starts, ends, grids, strict=True)
            ),
            payload=payload,
            grey=source.grey,
            chunks=tuple((kind, data) for kind, data in chunks if data is not None),
        )
    )


@memory_errors()
def decompress(
    data: bytes,
    *,
    levels: int | None = None,
    allow_truncated: bool = False,
    model: str | None = None,
    notes: Callable[[str], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> "Image":
    """The picture in a `.vqc` file.

    Args:
        levels: decode only the first so many levels: a coarser picture, sooner.
        allow_truncated: decode what there is of a file that was cut.
        model: name or path of the weights, where they are not among those shipped.
        notes: told what a cut file lost.
        progress: told the share of the work done, 0..1.
    Raises:
        BitstreamError: the file is damaged, or not a `.vqc` file.
        ModelError: the model that it needs is not here.
        ValueError: levels below 1.
    """
    found = read_grids(data, levels=levels, allow_truncated=allow_truncated, model=model)
    parsed, loaded, grids = found.container, found.model, found.grids
    if progress:
        progress(0.7)  # what is left is the network, about a third of the time
    if notes and not parsed.complete:
        notes(f"the file was cut: decoded {len(grids)} of {len(parsed.levels)} levels")
        for kind in parsed.lost:
            notes(f"the file was cut: its {kind.decode()} is lost")
    rgb = _decode(loaded, grids, parsed.quality, parsed.height, parsed.width)
    alpha = parsed.chunk(ALPHA)
    if parsed.grey:
        rgb = np.repeat(_luma(rgb)[..., None], 3, axis=2)
    return image.to_pil(
        Picture(
            rgb=rgb,
            grey=parsed.grey,
            alpha=None if alpha is None else image.decode_alpha(alpha, parsed.width, parsed.height),
            icc=parsed.chunk(ICC),
            exif=parsed.chunk(EXIF),
            xmp=parsed.chunk(XMP),
        )
    )


def verify(data: bytes, model: str | None = None) -> None:
    """Decode everything but the pixels and check every checksum; needs no torch.

    Raises:
        BitstreamError: the file is damaged, or not a `.vqc` file.
        ModelError: the model that it needs is not here.
    """
    parsed = read_grids(data, model=model).container
    if (alpha := parsed.chunk(ALPHA)) is not None:
        image.decode_alpha(alpha, parsed.width, parsed.height)


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
    Source: ancestral sampling; nucleus sampling, Holtzman et al. (2020).
    """
    loaded = registry.load(model)
    rng = np.random.default_rng(seed)

    def draw(front: Front, frequencies: NDArray[np.float64]) -> NDArray[np.int32]:
        return _draw(rng, frequencies, temperature, top_p)

    shapes = loaded.config.grid_shapes(size[1], size[0])[: loaded.levels_worth(quality)]
    grids = walk(loaded.prior, shapes, quality, draw, batch=count)
    pictures = []
    for row in range(count):
        rgb = _decode(loaded, [grid[row] for grid in grids], quality, size[1], size[0])
        pictures.append(image.to_pil(Picture(rgb=rgb)))
    return pictures


def _luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey value of almost grey pixels: the mean of the three channels, rounded."""
    mean: NDArray[np.uint8] = ((rgb.astype(np.uint16).sum(2) + 1) // 3).astype(np.uint8)
    return mean


def _encode(model: Model, rgb: NDArray[np.uint8], quality: int) -> "Tensor":
    """Latent (1, D, h, w) of a picture (H, W, 3), padded to the coarsest stride."""
    import torch

    padded = image.pad(rgb, model.config.levels[0].stride)
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        return model.autoencoder.encode(x, torch.tensor([quality]))


def _decode(
    model: Model, grids: Sequence[IndexGrid], quality: int, height: int, width: int
) -> NDArray[np.uint8]:
    """Picture (height, width, 3) of the grids (h_l, w_l) of the first levels."""
    import torch

    base = model.config.grid_shapes(height, width)[-1]
    with torch.inference_mode():
        tensors = [torch.from_numpy(grid.astype(np.int64))[None] for grid in grids]
        latent = model.quantizer.dequantize(tensors, *base)
        x = model.autoencoder.decode(latent, torch.tensor([quality]))[0]
        rgb = x.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return image.crop(rgb.permute(1, 2, 0).numpy(), height, width)


def _quantize(model: Model, latent: "Tensor", quality: float, count: int) -> list[IndexGrid]:
    import torch

    quantized = model.quantizer(latent, torch.tensor([quality]), levels=count)
    return [grid[0].numpy().astype(np.int32) for grid in quantized.grids]


@dataclass(frozen=True)
class Grids:
    """What a `.vqc` file holds, entropy-decoded and checked: all but the pixels."""

    container: Container
    model: Model
    grids: list[IndexGrid]  # (h_l, w_l) per decoded level, coarse first


def read_grids(
    data: bytes,
    *,
    levels: int | None = None,
    allow_truncated: bool = False,
    model: str | None = None,
) -> Grids:
    """Parse a file, find its model, decode the index grids and check them; needs no torch.

    Raises:
        BitstreamError, ModelError, ValueError: as `decompress`.
    """
    if levels is not None and levels < 1:
        raise ValueError(f"levels {levels} out of range")
    parsed = container.parse(data, allow_truncated=allow_truncated)
    loaded = registry.find(parsed.model_id, model)
    shapes = loaded.config.grid_shapes(parsed.height, parsed.width)
    if len(parsed.levels) > len(shapes):
        raise CorruptChunk(b"header", 0, f"{len(parsed.levels)} levels, model has {len(shapes)}")
    count = min(levels or len(shapes), parsed.levels_present)
    if count == 0:
        raise CorruptChunk(b"payload", len(data), "the file was cut before its first level ended")
    grids = decode_grids(
        loaded.prior, parsed.payload, shapes[:count], parsed.quality, parsed.word_ends
    )
    for level, (grid, entry) in enumerate(zip(grids, parsed.levels, strict=False)):
        if container.checksum_indices(grid) != entry.check:
            raise CorruptChunk(b"payload", 0, f"level {level} does not match its checksum")
    return Grids(parsed, loaded, grids)


def _draw(
    rng: np.random.Generator, frequencies: NDArray[np.float64], temperature: float, top_p: float
) -> NDArray[np.int32]:
    """One index per row of frequencies (batch, n, K): (batch, n)."""
    if temperature == 0:
        likeliest: IndexGrid = frequencies.argmax(-1).astype(np.int32)
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
    drawn: IndexGrid = np.minimum((sums <= levels).sum(-1), chances.shape[-1] - 1)
    return drawn.astype(np.int32)
