"""What a cut or damaged file has lost: an error, or with `partial` one note for each loss."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import vqcodec
from vqcodec.bitstream import container
from vqcodec.errors import CorruptChunk
from vqcodec.training.drawings import draw


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.fixture(scope="module")
def model(tiny_weights: dict[str, Path]) -> str:
    return str(tiny_weights["residual"])


@pytest.fixture(scope="module")
def whole(model: str) -> bytes:
    """A file of two parts and a colour profile."""
    picture, file = Image.fromarray(draw(np.random.default_rng(5), 48)), io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(file, "PNG", icc_profile=profile)
    return vqcodec.compress(file.getvalue(), quality=90, model=model)


@pytest.mark.parametrize(
    ("loss", "told", "pixels_are_whole"),
    [
        ("cut", r"^the file was cut: 4 of 5 levels", False),
        ("damaged", r"^1 of 1 tiles are damaged", False),
        ("checksum", r"^the payload's checksum is wrong", True),
        ("profile", r"^its .* is lost$", True),
        ("surplus", r"^3 bytes after the end", True),
    ],
)
def test_every_loss_is_told(
    model: str, whole: bytes, loss: str, told: str, pixels_are_whole: bool
) -> None:
    parsed = container.parse(whole)
    end = whole.index(parsed.payload) + len(parsed.payload)  # of the last part
    damaged = {
        "cut": whole[: end - 1],
        "damaged": flipped(whole, end - parsed.parts[-1].size),
        "checksum": flipped(whole, end),
        "profile": flipped(whole, len(whole) - 1),
        "surplus": whole + bytes(3),
    }[loss]
    with pytest.raises(CorruptChunk):
        vqcodec.decompress(damaged, model=model)
    notes: list[str] = []
    got = vqcodec.decompress(damaged, model=model, partial=True, notes=notes.append)
    assert any(re.search(told, note) for note in notes), notes
    same = got.tobytes() == vqcodec.decompress(whole, model=model).tobytes()
    assert same == pixels_are_whole
    assert ("icc_profile" in got.info) == (loss not in ("cut", "profile"))


def test_nothing_is_told_of_a_whole_file(model: str, whole: bytes) -> None:
    notes: list[str] = []
    vqcodec.decompress(whole, model=model, partial=True, notes=notes.append)
    assert notes == []
