"""Draw a dozen pictures that are no photographs: python benchmarks/other_pictures.py FOLDER

What `vqcodec evaluate FOLDER` then says of them is in docs/evaluate.md.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 640, 480
SENTENCE = "the codec keeps every index and the reader gets the same bits on any machine"


def canvas(colour: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (WIDTH, HEIGHT), colour)
    return image, ImageDraw.Draw(image)


def paragraph(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], size: int, fill: str
) -> None:
    font, rng = ImageFont.load_default(size), np.random.default_rng(size)
    left, top, right, bottom = box
    for y in range(top, bottom, round(1.4 * size)):
        x = left
        while x < right:
            word = str(rng.choice(SENTENCE.split())) + " "
            draw.text((x, y), word, fill=fill, font=font)
            x += round(draw.textlength(word, font=font))


def text() -> Image.Image:
    image, draw = canvas("white")
    paragraph(draw, (20, 20, 560, 460), 13, "black")
    return image


def coloured_text() -> Image.Image:
    image, draw = canvas("#103080")
    paragraph(draw, (20, 20, 560, 460), 18, "#ff3020")
    return image


def screenshot() -> Image.Image:
    image, draw = canvas("#f0f0f0")
    draw.rectangle((0, 0, WIDTH, 28), "#2b3a55")
    for k in range(5):
        draw.rounded_rectangle((10 + 90 * k, 36, 90 + 90 * k, 58), 5, "#d0d7e4", "#8090a8")
        draw.text((22 + 90 * k, 40), f"Menu {k}", "#202020", ImageFont.load_default(12))
    draw.rectangle((10, 70, 180, 470), "white", "#a0a0a0")
    paragraph(draw, (18, 80, 130, 460), 11, "#303030")
    draw.rectangle((190, 70, 630, 470), "white", "#a0a0a0")
    paragraph(draw, (200, 80, 570, 280), 12, "#101010")
    draw.rectangle((200, 300, 420, 460), "#1e1e1e")
    paragraph(draw, (208, 308, 360, 450), 11, "#90d090")
    return image


def chart() -> Image.Image:
    image, draw = canvas("white")
    draw.line((60, 20, 60, 440, 620, 440), "black", 2)
    for k, colour in enumerate(("#d62728", "#1f77b4", "#2ca02c")):
        points = [(60 + 8 * x, 420 - (60 + 40 * k) * np.log1p(x / (3 + k))) for x in range(68)]
        draw.line(points, colour, 2)
    for k in range(11):
        draw.line((60 + 50 * k, 440, 60 + 50 * k, 446), "black")
        draw.text((54 + 50 * k, 450), str(k), "black", ImageFont.load_default(12))
    return image


def line_drawing() -> Image.Image:
    image, draw = canvas("white")
    rng = np.random.default_rng(1)
    for _ in range(60):
        x, y, r = rng.integers(0, WIDTH), rng.integers(0, HEIGHT), rng.integers(10, 120)
        draw.ellipse((x - r, y - r, x + r, y + r), outline="black", width=1)
    return image


def cartoon() -> Image.Image:
    image, draw = canvas("#87ceeb")
    draw.rectangle((0, 330, WIDTH, HEIGHT), "#5cb85c")
    draw.ellipse((480, 30, 580, 130), "#ffd700", "black", 4)
    draw.rectangle((150, 220, 350, 400), "#c0392b", "black", 4)
    draw.polygon([(130, 220), (250, 120), (370, 220)], "#7f5539", "black", 4)
    draw.rectangle((230, 310, 280, 400), "#3d2b1f", "black", 4)
    return image


def flat() -> Image.Image:
    return canvas("#4a7a9c")[0]


def gradient() -> Image.Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    channels = [255 * x / WIDTH, 255 * y / HEIGHT, 255 - 127 * (x + y) / (WIDTH + HEIGHT)]
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


def noise() -> Image.Image:
    rng = np.random.default_rng(2)
    return Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def chequers() -> Image.Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray((255 * ((x + y) % 2)).astype(np.uint8)).convert("RGB")


def halftone() -> Image.Image:
    return gradient().convert("1").convert("RGB")


def pixel_art() -> Image.Image:
    rng = np.random.default_rng(3)
    palette = rng.integers(0, 256, (8, 3), np.uint8)
    small = Image.fromarray(palette[rng.integers(0, 8, (30, 40))])
    return small.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)


PICTURES: tuple[Callable[[], Image.Image], ...] = (
    *(text, coloured_text, screenshot, chart, line_drawing, cartoon),
    *(flat, gradient, noise, chequers, halftone, pixel_art),
)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        picture().save(folder / f"{picture.__name__}.png")
