"""A large picture made of smaller ones."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def pictures_of(folder: Path) -> list[Path]:
    """The picture files in a folder, by name.

    Raises:
        SystemExit: there is none.
    """
    suffixes = {".png", ".jpg", ".jpeg", ".webp"}
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not found:
        raise SystemExit(f"{folder}: no pictures")
    return found


def mosaic(paths: Sequence[Path], width: int, height: int) -> Image.Image:
    """The pictures one after the other in rows, again and again, until the canvas is full."""
    canvas = Image.new("RGB", (width, height))
    x = y = row = 0
    for path in itertools.cycle(paths):
        with Image.open(path) as picture:
            canvas.paste(picture.convert("RGB"), (x, y))
            x, row = x + picture.width, max(row, picture.height)
        if x >= width:
            x, y, row = 0, y + row, 0
        if y >= height:
            return canvas
    raise ValueError("no pictures")
