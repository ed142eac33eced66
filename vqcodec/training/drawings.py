"""Pictures drawn from random numbers, for training without a data set.

A picture is one scene (dead leaves, a landscape, a texture, text) or two of them blended, and then
"taken by a camera": light, focus, contrast, sensor noise. Dead leaves are the backbone: opaque
shapes with power-law radii give the 1/f spectrum, the sharp occlusions and the smooth insides of
photographs.

Source: the dead leaves model and its power law, Lee, Mumford and Huang (2001), "Occlusion models
for natural images"; training on it, Baradad et al. (2021), "Learning to see by looking at noise".
"""

from collections.abc import Callable
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vqcodec.training.noise import Float32, Generator, axes, blur, f32, fractal, ridge_line

__all__ = ["draw"]

Scene = Callable[[Generator, int], Float32]  # (rng, side) -> (side, side, 3), about 0..1

# sRGB, 0..255: what things outdoors and indoors are painted with.
NATURAL: Float32 = np.array(
    [
        (62, 84, 40), (104, 128, 58), (150, 160, 92), (34, 48, 30),  # leaves, grass, shade
        (122, 92, 64), (168, 134, 98), (84, 60, 44), (208, 184, 148),  # earth, wood, sand
        (128, 160, 200), (84, 124, 176), (188, 208, 226), (52, 84, 112),  # sky, water
        (146, 146, 142), (96, 98, 102), (208, 206, 200), (48, 48, 52),  # stone, road, wall
        (222, 180, 152), (176, 124, 96), (112, 72, 54), (164, 68, 52),  # skin, brick
        (196, 120, 48), (226, 190, 70), (140, 50, 80), (70, 60, 120),  # petals
        (240, 238, 232), (20, 20, 22),  # paper, darkness
    ],
    np.float32,
) / np.float32(255)  # fmt: skip
SKIES: Float32 = NATURAL[[8, 8, 9, 10, 10, 12, 14, 20, 22, 24]]
LETTERS = np.array(list(3 * ascii_lowercase + ascii_uppercase + digits + ".,:-&?"))
OVERSAMPLING = 1.5  # drawn larger than asked for, then reduced as a camera does: smooth edges
CORNERS = 28  # of the polygon that stands for a leaf


def draw(rng: Generator, size: int) -> NDArray[np.uint8]:
    """One random picture, the same for the same state of `rng` and versions of the libraries.

    Args:
        rng: advanced by a number of draws that depends on the picture.
        size: side in pixels, 8 or more.
    Returns:
        (size, size, 3) uint8, sRGB.
    Raises:
        ValueError: `size` is below 8.
    """
    if size < 8:
        raise ValueError(f"size {size} is below 8")
    side = round(size * OVERSAMPLING)
    picture = _scene(rng, side)
    if rng.random() < 0.25:
        mask = _mask(rng, side)
        picture += mask * (_scene(rng, side) - picture)
    return _photograph(rng, picture, size)


def _scene(rng: Generator, side: int) -> Float32:
    scenes: list[Scene] = [_leaves, _landscape, _sky, _texture, _page]
    return scenes[rng.choice(len(scenes), p=[0.52, 0.16, 0.08, 0.14, 0.10])](rng, side)


# Scenes


def _leaves(rng: Generator, side: int) -> Float32:
    """Opaque shapes over one another, each with its own colour, shading and texture."""
    count = int(np.exp(rng.uniform(np.log(25), np.log(500))))
    radii = _power_law(rng, count, rng.uniform(2, 6), side * rng.uniform(0.2, 0.8))
    centres = rng.uniform(-0.1, 1.1, (count, 2)) * side
    labels = _occlude(_outlines(rng, radii), centres, side)

    colours = _palette(rng, count + 1)
    y, x = axes(side)
    turn, steep = rng.uniform(0, 2 * np.pi, count + 1), rng.normal(0, 0.09, count + 1)
    reach = np.append(side, radii)  # a leaf's shading spans the leaf, whatever its size
    centre = np.vstack([[side / 2, side / 2], centres])
    slope_y, slope_x = f32(np.sin(turn) * steep / reach), f32(np.cos(turn) * steep / reach)
    offset = f32(slope_y * centre[:, 1] + slope_x * centre[:, 0])
    light = slope_y[labels] * y + slope_x[labels] * x - offset[labels]
    light += _leaf_texture(rng, labels, count + 1)
    light += 1 - _shadow(rng, labels)
    picture: Float32 = colours[labels] * light[..., None]
    return picture


def _landscape(rng: Generator, side: int) -> Float32:
    """Rough ridges one in front of another under a sky, paler and bluer with distance."""
    picture = _sky(rng, side, upright=True)
    haze = picture[side // 2].mean(axis=0)
    y, x = axes(side)
    ridges = int(rng.integers(1, 6))
    colours = _palette(rng, ridges)
    top = rng.uniform(0.2, 0.6)
    for ridge in range(ridges):
        nearness = (ridge + 1) / ridges
        line = ridge_line(rng, side) * rng.uniform(0.03, 0.15) * side
        horizon = side * (top + (0.95 - top) * ridge / ridges) + line
        cover = np.clip(y - horizon, 0, 1)
        rough = fractal(rng, side, rng.uniform(0.8, 1.6), squeeze=rng.uniform(0.3, 1.0))
        body = colours[ridge] * (1 + 0.28 * nearness * rough)[..., None]
        body += (haze - body) * f32(0.8 * (1 - nearness))
        picture += cover[..., None] * (body - picture)
    return picture


def _sky(rng: Generator, side: int, upright: bool = False) -> Float32:
    """A smooth run of two or three colours, sometimes with clouds."""
    y, x = axes(side)
    turn = np.pi / 2 if upright else rng.uniform(0, 2 * np.pi)
    along = f32(np.sin(turn)) * y + f32(np.cos(turn)) * x
    along = (along - along.min()) / (along.max() - along.min())
    if rng.random() < 0.3 and not upright:
        centre = rng.uniform(0, side, 2)
        along = np.sqrt((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (1.5 * side)
    stops = _palette(rng, 3, SKIES if upright else NATURAL)
    steps = np.array([0, rng.uniform(0.3, 0.7), 1])
    picture = f32(np.stack([np.interp(along, steps, stops[:, c]) for c in range(3)], axis=-1))
    if rng.random() < 0.6:
        clouds = fractal(rng, side, rng.uniform(1.3, 2.0), squeeze=rng.uniform(0.4, 1.0))
        cover = np.clip(rng.uniform(0.15, 0.4) * (clouds + rng.uniform(-0.8, 0.4)), 0, 0.9)
        white = f32(rng.uniform(0.75, 1.0))
        picture += cover[..., None] * (white - picture)
    return picture


def _texture(rng: Generator, side: int) -> Float32:
    """Stone, wood or cloth: one scalar field looked up in a run of colours."""
    y, x = axes(side)
    kind = rng.choice(["stone", "wood", "cloth", "cells"], p=[0.4, 0.25, 0.2, 0.15])
    field = fractal(rng, side, rng.uniform(0.9, 1.9), rng.uniform(0.2, 1.0), rng.uniform(0, np.pi))
    turn = rng.uniform(0, np.pi)
    cos, sin = f32(np.cos(turn)), f32(np.sin(turn))
    u, v = cos * x + sin * y, cos * y - sin * x
    period = f32(np.exp(rng.uniform(np.log(5), np.log(40))))
    if kind == "wood":
        rings = np.sin(2 * np.pi * u / period + rng.uniform(1, 4) * field)
        field = rings + 0.5 * fractal(rng, side, 0.9, 0.05, turn + np.pi / 2)
    elif kind == "cloth":
        weave = np.sin(2 * np.pi * u / period) + np.sin(2 * np.pi * v / period)
        field = rng.uniform(0.2, 1) * weave + rng.uniform(0.3, 1) * field
    elif kind == "cells":
        field = np.abs(field) ** f32(0.5) * 2 - 1.5  # dark creases along the zero crossings
    stops = _palette(rng, 4, spread=0.1)
    order = np.argsort(stops.sum(axis=1))
    picture = np.stack(
        [np.interp(field, [-2, -0.6, 0.6, 2], stops[order, c]) for c in range(3)], axis=-1
    )
    return f32(picture)


def _page(rng: Generator, side: int) -> Float32:
    """Lines of random letters, on paper or on another scene."""
    if rng.random() < 0.5:
        ground = np.broadcast_to(_palette(rng, 1), (side, side, 3)).astype(np.float32)
        ground *= 1 + f32(rng.uniform(0, 0.06)) * fractal(rng, side, 1.2)[..., None]
    else:
        grounds: list[Scene] = [_leaves, _sky, _texture]
        ground = grounds[rng.integers(3)](rng, side)
    ink = _palette(rng, 1)[0]
    if abs(float(ink.mean() - ground.mean())) < 0.3:  # legible, as a rule
        ink = f32(ink * 0.2 if ground.mean() > 0.45 else 1 - (1 - ink) * 0.2)
    mask = _lettering(rng, side)
    picture: Float32 = ground + mask[..., None] * (ink - ground)
    return picture


# Parts of scenes


def _palette(rng: Generator, count: int, among: Float32 = NATURAL, spread: float = 0.08) -> Float32:
    """(count, 3) colours around a few of `among`: a picture has few hues and many shades."""
    anchors = among[rng.integers(len(among), size=rng.integers(2, 6))]
    colours = anchors[rng.integers(len(anchors), size=count)]
    shade = np.exp(rng.normal(0, rng.uniform(0.1, 0.5), (count, 1)))
    tint = rng.normal(0, spread * rng.uniform(0.1, 0.8), (count, 3))
    return f32(np.clip((colours + tint) * shade, 0.01, 1))


def _power_law(rng: Generator, count: int, smallest: float, largest: float) -> NDArray[np.float64]:
    """(count,) radii with density r**-1.1 to r**-2.6, half of the time largest first.

    The law of endless leaves is r**-3. These few would leave the ground bare: each octave of radii
    then covers the same area, and most of the leaves are small.
    """
    power = -rng.uniform(0.1, 1.6)
    low, high = smallest**power, max(largest, 2 * smallest) ** power
    radii = (high + rng.random(count) * (low - high)) ** (1 / power)
    return np.sort(radii)[::-1] if rng.random() < 0.5 else radii


def _outlines(rng: Generator, radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, CORNERS, 2) x, y around 0: discs, ellipses, regular polygons and blobs."""
    count = len(radii)
    kind = rng.choice(4, count, p=rng.dirichlet([0.7] * 4))[:, None]
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False) + np.zeros((count, 1))
    step = 2 * np.pi / rng.integers(3, 7, (count, 1))
    angle = np.where(kind == 2, np.floor(angle / step) * step, angle)
    radius = radii[:, None] * np.ones_like(angle)
    for harmonic in (2, 3, 5):
        wave = np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi, (count, 1)))
        radius *= np.where(kind == 3, 1 + rng.uniform(0, 0.5, (count, 1)) / harmonic * wave, 1)
    squash = np.where(kind == 0, 1, rng.uniform(0.08, 1, (count, 1)))
    points = np.stack([radius * np.cos(angle), radius * squash * np.sin(angle)], axis=-1)
    turn = rng.uniform(0, 2 * np.pi, count)
    if rng.random() < 0.4:  # walls, shelves, streets: two main directions
        turn = rng.uniform(0, np.pi) + rng.integers(4, size=count) * np.pi / 2
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned: NDArray[np.float64] = np.einsum("nci,ijn->ncj", points, rotation)
    return turned


def _occlude(
    outlines: NDArray[np.float64], centres: NDArray[np.float64], side: int
) -> NDArray[np.int32]:
    """(side, side) number of the topmost leaf, from 1; 0 where there is none."""
    canvas = Image.new("I", (side, side))
    pen = ImageDraw.Draw(canvas)
    corners = (outlines + centres[:, None]).reshape(len(outlines), -1)
    for number, points in enumerate(corners.tolist(), start=1):
        pen.polygon(points, fill=number)
    return np.asarray(canvas, np.int32)


def _leaf_texture(rng: Generator, labels: NDArray[np.int32], count: int) -> Float32:
    """Relative brightness, about 0: every leaf its own strength of noise and of stripes."""
    side = len(labels)
    y, x = axes(side)
    strength = f32(np.minimum(rng.gamma(0.8, rng.uniform(0.02, 0.15), count), 0.3))
    texture = strength[labels] * fractal(rng, side, rng.uniform(0.7, 1.6))
    if rng.random() < 0.4:
        turn = rng.uniform(0, 2 * np.pi, count)
        pulse = 2 * np.pi / np.exp(rng.uniform(np.log(4), np.log(30), count))
        stripes = f32(np.where(rng.random(count) < 0.25, rng.uniform(0.05, 0.35, count), 0))
        across = f32(pulse * np.cos(turn))[labels] * x + f32(pulse * np.sin(turn))[labels] * y
        texture += stripes[labels] * np.sin(across)
    return texture


def _shadow(rng: Generator, labels: NDArray[np.int32]) -> Float32:
    """What upper leaves take from the light of lower ones, 0..0.6, soft."""
    shift = tuple(int(s) for s in rng.integers(-6, 7, 2))
    cast = np.roll(labels, shift, axis=(0, 1)) > labels
    return f32(rng.uniform(0, 0.6)) * blur(cast.astype(np.float32), rng.uniform(0.5, 5))


def _lettering(rng: Generator, side: int) -> Float32:
    """(side, side) coverage with ink, 0..1."""
    height = int(np.exp(rng.uniform(np.log(10), np.log(max(12, side / 3)))))
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    font = _font(height)
    left, leading = rng.uniform(-0.1, 0.2) * side, rng.uniform(1.1, 1.8) * height
    for top in np.arange(rng.uniform(-1, 1) * height, side, leading):
        letters = rng.choice(LETTERS, int(3 * side / height))
        letters[rng.random(len(letters)) < 0.17] = " "
        stop = rng.integers(len(letters)) + 1 if rng.random() < 0.3 else len(letters)
        pen.text((left, top), "".join(letters[:stop]), fill=255, font=font)
    if rng.random() < 0.4:
        canvas = canvas.rotate(rng.normal(0, 15), Image.Resampling.BILINEAR)
    return np.asarray(canvas, np.float32) / f32(255)


@lru_cache(maxsize=64)
def _font(height: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(height)


def _mask(rng: Generator, side: int) -> Float32:
    """(side, side, 1) in 0..1: where the second scene shows; sharp, soft or everywhere a little."""
    field = fractal(rng, side, rng.uniform(1.4, 2.4))
    sharpness = np.exp(rng.uniform(np.log(0.3), np.log(30)))
    return f32(np.clip(sharpness * (field + rng.normal(0, 0.5)) + 0.5, 0, 1))[..., None]


# The camera


def _photograph(rng: Generator, picture: Float32, size: int) -> NDArray[np.uint8]:
    """Light, focus, reduction to `size`, exposure and sensor noise."""
    side = len(picture)
    light = fractal(rng, side, 2.2) * f32(rng.uniform(0, 0.3))
    picture = picture * np.exp(light)[..., None]
    sharp: Float32 = _resize(picture, size)
    softness = rng.choice([0.0, 0.5, 0.9, 2.5], p=[0.25, 0.35, 0.3, 0.1]) * rng.uniform(0.5, 1.5)
    if softness > 0:
        blurred = np.stack([blur(sharp[..., c], softness) for c in range(3)], axis=-1)
        depth = 1 if rng.random() < 0.6 else _mask(rng, size)  # all out of focus, or a part
        sharp = sharp + depth * (blurred - sharp)
    grey = sharp.mean(axis=-1, keepdims=True)
    sharp = grey + f32(rng.uniform(0.6, 1.1) if rng.random() < 0.94 else 0) * (sharp - grey)
    contrast, level = rng.uniform(0.8, 1.5), sharp.mean()
    sharp = (sharp - level) * f32(contrast) + np.clip(level, 0.25, 0.6)
    shoulder = f32(0.75)  # as film and cameras do: bright places go to white slowly
    bright = np.maximum(sharp - shoulder, 0)
    sharp = np.minimum(sharp, shoulder) + bright / (1 + bright / (1 - shoulder))
    if rng.random() < 0.4:
        grain = rng.standard_normal(sharp.shape, np.float32)
        sharp = sharp + grain * f32(rng.uniform(0.002, 0.025))
    pixels: NDArray[np.uint8] = np.clip(sharp * 255 + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _resize(picture: Float32, size: int) -> Float32:
    planes = (Image.fromarray(np.ascontiguousarray(picture[..., c])) for c in range(3))
    sampling = Image.Resampling.BICUBIC
    return np.stack([np.asarray(p.resize((size, size), sampling)) for p in planes], axis=-1)
