"""One photograph by vqcodec, AVIF and WebP in files of equal size, beside the original.

    python benchmarks/side_by_side.py docs/coffee.webp docs/side_by_side.webp

Each codec writes its largest file of at most BYTES; the result shows the same part of each, twice
enlarged without smoothing, and the PSNR of the whole picture.
"""

import io
import sys
from pathlib import Path

import numpy as np
from machine import describe
from PIL import Image, ImageDraw, ImageFont

import vqcodec
from vqcodec.evaluation.baselines import BASELINES
from vqcodec.picture.metrics import psnr_db

BYTES = 4860
BOX = (96, 164, 396, 344)  # left, top, right, bottom, in pixels of the original
SCALE = 2
GAP, HEAD = 8, 34  # pixels between the parts, and above each for its label


def of_baseline(name: str, picture: Image.Image) -> bytes:
    """The largest file of at most BYTES over all whole settings of the codec."""
    files = (BASELINES[name].encode(picture, setting) for setting in range(101))
    return max((file for file in files if len(file) <= BYTES), key=len)


def labelled(picture: Image.Image, label: str) -> Image.Image:
    part = picture.convert("RGB").crop(BOX)
    part = part.resize((SCALE * part.width, SCALE * part.height), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (part.width, part.height + HEAD), "white")
    tile.paste(part, (0, HEAD))
    font = ImageFont.load_default(22)
    ImageDraw.Draw(tile).text((2, 4), label, "black", font)
    return tile


def side_by_side(picture: Image.Image) -> Image.Image:
    """Two rows of two: the original and vqcodec, AVIF and WebP."""
    tiles = [labelled(picture, f"original, {picture.width} x {picture.height} pixels")]
    vqc = vqcodec.compress(picture, size=BYTES)
    results = [("vqcodec", vqc, vqcodec.decompress(vqc))]
    for name in ("AVIF", "WebP"):
        data = of_baseline(name.lower(), picture)
        results.append((name, data, Image.open(io.BytesIO(data))))
    for name, data, decoded in results:
        psnr = psnr_db(np.asarray(picture), np.asarray(decoded.convert("RGB")))
        tiles.append(labelled(decoded, f"{name}: {len(data)} bytes, {psnr:.1f} dB"))
    width, height = tiles[0].size
    sheet = Image.new("RGB", (2 * width + GAP, 2 * height + GAP), "white")
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % 2 * (width + GAP), k // 2 * (height + GAP)))
    return sheet


if __name__ == "__main__":
    source, output = map(Path, sys.argv[1:])
    print(describe())
    side_by_side(Image.open(source).convert("RGB")).save(output, lossless=True)
