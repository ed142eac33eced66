"""Atheris target: no bytes may make decoding raise anything but a VqcodecError. Not run by pytest.

    pip install atheris                                   # no dependency of vqcodec
    vqcodec compress picture.png --model w.safetensors -o corpus/picture.vqc
    python tests/fuzz/decode.py --model=w.safetensors corpus/ -max_len=4096 -timeout=5

Small weights, such as `vqcodec train --minutes 1` writes, and small pictures are found out about
soonest. Checksums are repaired before decoding, or nearly no case would get past them. A case that
fails lies in crash-*; give that file instead of corpus/ to run it again.
"""

import random
import sys
from contextlib import suppress
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1])]  # for the damage of test_fuzz.py

with atheris.instrument_imports(include=["vqcodec"]):
    from vqcodec import codec
    from vqcodec.errors import ImageError, VqcodecError
    from vqcodec.picture import reading

from test_fuzz import damaged, repaired  # noqa: E402

MAX_PIXELS = 2**20  # of sound files: they are to be decoded, but soon

options = [word for word in sys.argv if word.startswith("--model=")]
model = options[0].removeprefix("--model=") if options else "photo"


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's changes or ours; either with the CRC-32 that they ask for."""
    changed = atheris.Mutate(data, max_size) if seed % 2 or not data else ours(data, seed)
    return repaired(changed)[:max_size]


def ours(data: bytes, seed: int) -> bytes:
    return damaged(random.Random(seed), data)


def decode(data: bytes) -> None:
    for partial in (False, True):
        with suppress(VqcodecError):
            codec.decompress(data, partial=partial, model=model, max_pixels=MAX_PIXELS)
    with suppress(ImageError):
        reading.read_picture(data, max_pixels=MAX_PIXELS)


if __name__ == "__main__":
    arguments = [word for word in sys.argv if word not in options]
    atheris.Setup(arguments, decode, custom_mutator=mutate)
    atheris.Fuzz()
