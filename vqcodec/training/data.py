"""Training crops: from a folder of pictures, or drawn on the spot."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqcodec.errors import ImageError
from vqcodec.files import PICTURES
from vqcodec.picture.reading import read_picture

__all__ = ["CropSource", "Progress", "drawn_pictures", "load_folder"]

CACHE_BYTES = 6 << 30  # decoded once, kept in memory; what goes beyond is left out
LARGEST_SHORT_SIDE = 1024  # larger photos are reduced: sharper pixels, fewer JPEG traces

UInt8 = NDArray[np.uint8]
Progress = Callable[[float, int], None]  # the share of the work done, 0..1; pictures so far


def load_folder(
    folder: Path,
    smallest: int,
    seed: int,
    note: Callable[[str], None],
    progress: Progress = lambda share, count: None,
) -> list[UInt8]:
    """Decode every picture below a folder, once: a list of (H, W, 3) arrays, ordered by path.

    If they take more than `CACHE_BYTES`, a random part of them is used.

    Args:
        smallest: pictures with a shorter side are left out.
        seed: of the random part.
        note: told what was left out.
        progress: called after each file.
    Raises:
        ImageError: the folder has no picture that can be used.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    pictures: dict[int, UInt8] = {}
    total, unreadable, small = 0, 0, 0
    for done, which in enumerate(np.random.default_rng(seed).permutation(len(paths)), 1):
        try:
            picture = _reduced(read_picture(paths[which], strip=True).rgb)
        except ImageError:
            unreadable += 1
        else:
            if min(picture.shape[:2]) < smallest:
                small += 1
            else:
                pictures[which] = picture
                total += picture.nbytes
        progress(max(done / len(paths), min(1.0, total / CACHE_BYTES)), len(pictures))
        if total >= CACHE_BYTES:
            size = f"{CACHE_BYTES / 2**30:.1f} GiB"
            note(f"{len(pictures)} random ones of {len(paths)} pictures are used: they take {size}")
            break
    for count, why in ((unreadable, "unreadable"), (small, f"smaller than {smallest} pixels")):
        if count:
            note(f"{count} files left out: {why}")
    if not pictures:
        raise ImageError(f"{folder}: no picture of at least {smallest} x {smallest} pixels")
    return [pictures[which] for which in sorted(pictures)]


def _reduced(picture: UInt8) -> UInt8:
    if (factor := min(picture.shape[:2]) // LARGEST_SHORT_SIDE) > 1:
        return np.array(Image.fromarray(picture).reduce(factor))
    return picture


def drawn_pictures(count: int, size: int, seed: int) -> Iterator[UInt8]:
    """Pictures (size, size, 3) that need no data set: dead leaves, gradients, textures, glyphs."""
    from vqcodec.training.drawings import draw

    rng = np.random.default_rng(seed)
    return (draw(rng, size) for _ in range(count))


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
