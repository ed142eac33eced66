"""The page docs/format.md is enough: a decoder written from it alone finds the same picture."""

import ast
import json
import random
import sys
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import reference
import reference_networks
from helpers import DOCS, GOLDEN

from vqcodec import codec, models
from vqcodec.decoder.grids import read_grids
from vqcodec.networks import windows
from vqcodec.options import DecodeOptions

V0 = GOLDEN / "v0"
WEIGHTS = V0 / "tiny.safetensors"
TINY = (V0 / "tiny.vqc").read_bytes()


def flip(data: bytes, place: int, bits: int) -> bytes:
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def sealed(header: bytes, words: bytes) -> bytes:
    """A file with the checksums that its bytes should have, and without chunks."""
    return b"".join(part + crc32(part).to_bytes(4, "little") for part in (header, words))


def unsealed(data: bytes) -> tuple[bytes, bytes]:
    """Header and words, both without their checksums; the inverse of `sealed`."""
    size = reference.parse(data).header_size
    return data[: size - 4], data[size:-4]


@pytest.mark.parametrize("name", ["tiny", "tiny-tiles"])
def test_the_golden_files_decode_to_their_indices(name: str) -> None:
    grids = reference.decode((V0 / f"{name}.vqc").read_bytes(), WEIGHTS)
    indices = b"".join(grid.astype("<i4").tobytes() for grid in grids)
    want = json.loads((V0 / f"{name}.json").read_text())["indices"]
    assert sha256(indices).hexdigest() == want


@pytest.mark.parametrize("name", ["tiny", "tiny-tiles", "photo-q10", "photo-q90", "photo-ssim-q50"])
def test_the_networks_give_the_same_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To half a grey level of what is not rounded yet; in bfloat16, where that is fast, to two."""
    data = (V0 / f"{name}.vqc").read_bytes()
    model = str(WEIGHTS) if name.startswith("tiny") else None
    found = read_grids(data, DecodeOptions(model=model))
    shipped = {bytes.fromhex(card.model_id): card.path for card in models.cards()}
    file, path = found.container, Path(model or shipped[found.container.model_id])
    grids = [grid.astype(np.int64) for grid in found.grids]
    want = reference_networks.samples(path, grids, file.quality, file.height, file.width)
    options = DecodeOptions(model=model)
    assert np.abs(want - codec.decompress_picture(data, options).rgb).max() < 2.5
    monkeypatch.setattr(windows, "fast_bfloat16", lambda: False)
    assert np.abs(want - codec.decompress_picture(data, options).rgb).max() < 0.51


@pytest.mark.parametrize("path", sorted((GOLDEN / "bad").glob("*.vqc")), ids=lambda p: p.stem)
def test_the_bad_files_are_refused(path: Path) -> None:
    with pytest.raises(ValueError):
        reference.decode(path.read_bytes(), WEIGHTS)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_are_refused(seed: int) -> None:
    rng = random.Random(seed)
    damaged = flip(TINY, rng.randrange(len(TINY)), rng.randrange(1, 256))
    with pytest.raises(ValueError):
        reference.decode(damaged, WEIGHTS)


@pytest.mark.parametrize("seed", range(8))
def test_flipped_streams_are_refused_behind_a_matching_crc(seed: int) -> None:
    header, payload = unsealed(TINY)
    assert sealed(header, payload) == TINY
    sizes = [size for size, _ in reference.parse(TINY).parts[0]]
    longest = sizes.index(max(sizes))
    # the last bits of a stream may change no index, so only its first half is damaged
    rng = random.Random(seed)
    place = sum(sizes[:longest]) + rng.randrange(sizes[longest] // 2)
    damaged = flip(payload, place, rng.randrange(1, 256))
    with pytest.raises(ValueError, match="part|stream|target"):
        reference.decode(sealed(header, damaged), WEIGHTS)


@pytest.mark.parametrize("count", [-9, -1, 1, 9])
def test_bytes_moved_to_the_next_part_are_refused(count: int) -> None:
    header, payload = unsealed(TINY)
    sizes = [size for size, _ in reference.parse(TINY).parts[0]]
    assert sizes[-2] > 9 and max(sizes) + 9 < 128  # so each size is one byte of the header
    moved = bytearray(header)
    moved[-6] -= count
    moved[-3] += count
    with pytest.raises(ValueError, match="stream|part|target"):
        reference.decode(sealed(bytes(moved), payload), WEIGHTS)


def test_the_reference_imports_nothing_of_the_package() -> None:
    tree = ast.parse(Path(reference.__file__).read_text())
    modules = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            modules.add((node.module or "").partition(".")[0])
    assert modules - sys.stdlib_module_names == {"numpy", "safetensors"}


def test_a_file_with_a_chunk_is_read() -> None:
    page = (DOCS / "format.md").read_text(encoding="utf-8")
    block = page.split("```hex\n")[1].split("```")[0]
    example = bytes.fromhex("".join(line.split("#")[0] for line in block.splitlines()))
    assert reference.parse(example).level_count == 5
    with pytest.raises(ValueError, match="crc"):
        reference.parse(example[:-1] + bytes([example[-1] ^ 1]))
