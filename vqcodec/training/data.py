"""Training crops: from a folder of pictures, or drawn on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqcodec.errors import ImageError
from vqcodec.picture.reading import read_picture

__all__ = ["CropSource", "drawn_pictures", "load_folder"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"}
CACHE_BYTES = 6 << 30  # decoded once, kept in memory; what goes beyond is left out
LARGEST_SHORT_SIDE = 1024  # larger photos are reduced: sharper pixels, fewer JPEG traces

UInt8 = NDArray[np.uint8]


def load_folder(folder: Path, smallest: int, note: Callable[[str], None]) -> list[UInt8]:
    """Decode every picture below a folder, once: a list of (H, W, 3) arrays.

    Args:
        smallest: pictures with a shorter side are left out.
        note: called with a sentence on what was left out.
    Raises:
        ImageError: the folder has no picture that can be used.
    """
    pictures: list[UInt8] = []
    total, unusable = 0, 0
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        try:
            array = read_picture(path, strip=True).rgb
        except ImageError:
            unusable += 1
            continue
        if (factor := min(array.shape[:2]) // LARGEST_SHORT_SIDE) > 1:
            array = np.array(Image.fromarray(array).reduce(factor))
        if min(array.shape[:2]) < smallest:
            unusable += 1
            continue
        pictures.append(array)
        total += array.nbytes
        if total > CACHE_BYTES:
            note(f"using the first {len(pictures)} pictures: they fill the cache of 6 GiB")
            break
    if unusable:
        note(f"{unusable} files left out: unreadable, or smaller than {smallest} pixels")
    if not pictures:
        raise ImageError(f"{folder}: no picture of at least {smallest} x {smallest} pixels")
    return pictures


def drawn_pictures(count: int, size: int, seed: int) -> list[UInt8]:
    """Pictures that need no data set: dead leaves, gradients, textures, glyphs."""
    from vqcodec.training.drawings import draw

    rng = np.random.default_rng(seed)
    return [draw(rng, size) for _ in range(count)]


class CropSource:
    """Random crops of pictures; the state of its generator is all it needs to resume.

    Args:
        pictures: (H, W, 3) uint8 each.
        seed: of the order and places of the crops.
        device: where the pictures are kept and crops made.
    """

    def __init__(self, pictures: list[UInt8], seed: int, device: str = "cpu") -> None:
        self.pictures = [torch.from_numpy(picture).to(device) for picture in pictures]
        self.rng = np.random.default_rng(seed)
        areas = np.array([p.shape[0] * p.shape[1] for p in pictures], np.float64)
        self.chances = areas / areas.sum()

    def batch(self, count: int, size: int) -> Tensor:
        """(count, 3, size, size) float32 in 0..1, channels last; half of them mirrored."""
        crops = []
        for which in self.rng.choice(len(self.pictures), count, p=self.chances):
            picture = self.pictures[which]
            top = self.rng.integers(picture.shape[0] - size + 1)
            left = self.rng.integers(picture.shape[1] - size + 1)
            crop = picture[top : top + size, left : left + size]
            crops.append(crop.flip(1) if self.rng.random() < 0.5 else crop)
        return torch.stack(crops).permute(0, 3, 1, 2).float() / 255
