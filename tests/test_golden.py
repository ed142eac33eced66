"""Files made once decode to the same indices for ever, whatever the machine does underneath."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from helpers import GOLDEN, read_grids

from vqcodec import codec
from vqcodec.bitstream import container
from vqcodec.errors import VqcodecError
from vqcodec.prior.arithmetic import Arithmetic, FloatArithmetic, Int8Arithmetic, int8_is_right

NAMES = sorted(path.stem for path in (GOLDEN / "v0").glob("*.vqc"))
SETTINGS = [
    {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
    {"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"ATEN_CPU_CAPABILITY": "avx512"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    {"OPENBLAS_CORETYPE": "Nehalem"},
    {"OPENBLAS_CORETYPE": "Haswell"},
]

# Prints the hashes of the indices of every golden file, decoded in float32 and as fast as may be.
SCRIPT = """
import sys
from hashlib import sha256
from pathlib import Path
from vqcodec.decoder.grids import read_grids
from vqcodec.options import DecodeOptions
from vqcodec.prior.arithmetic import FloatArithmetic, fastest_with_torch
for path in map(Path, sys.argv[1:]):
    weights = path.with_name("tiny.safetensors")
    model = str(weights) if path.stem.startswith("tiny") else path.stem.rpartition("-q")[0]
    for arithmetic in FloatArithmetic, fastest_with_torch:
        found = read_grids(path.read_bytes(), DecodeOptions(model=model), arithmetic=arithmetic)
        indices = b"".join(grid.astype("<i4").tobytes() for grid in found.grids)
        print(path.stem, sha256(indices).hexdigest())
"""


def model_of(name: str) -> str:
    weights = str(GOLDEN / "v0" / "tiny.safetensors")
    return weights if name.startswith("tiny") else name.rpartition("-q")[0]


def expected(name: str) -> str:
    text = (GOLDEN / "v0" / f"{name}.json").read_text(encoding="utf-8")
    return str(json.loads(text)["indices"])


def test_there_are_golden_files() -> None:
    photos = ["photo-q10", "photo-q50", "photo-q90", "photo-ssim-q50"]
    assert [*photos, "tiny", "tiny-tiles"] == NAMES


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map("=".join, s.items())))
@pytest.mark.slow
def test_same_indices_in_every_configuration(setting: dict[str, str]) -> None:
    paths = [str(GOLDEN / "v0" / f"{name}.vqc") for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths],
        env={**os.environ, **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [word for name in NAMES for word in (name, expected(name)) * 2]


def test_a_golden_file_has_several_tiles() -> None:
    parsed = container.parse((GOLDEN / "v0" / "tiny-tiles.vqc").read_bytes())
    assert container.tile_count(parsed.width, parsed.height) > 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["float64", "int8"])
def test_same_indices_in_other_arithmetic(name: str, kind: str) -> None:
    if kind == "int8" and not int8_is_right():
        pytest.skip("torch's sums of int8 are not right here, and not used")
    data, asked = (GOLDEN / "v0" / f"{name}.vqc").read_bytes(), list[Arithmetic]()

    def arithmetic() -> Arithmetic:
        asked.append(Int8Arithmetic(least=0) if kind == "int8" else FloatArithmetic(np.float64))
        return asked[-1]

    found = read_grids(data, model=model_of(name), arithmetic=arithmetic)
    assert {one.name for one in asked} == {kind}
    indices = b"".join(grid.astype("<i4").tobytes() for grid in found.grids)
    assert sha256(indices).hexdigest() == expected(name)


@pytest.mark.parametrize("path", sorted((GOLDEN / "bad").glob("*")), ids=lambda path: path.name)
def test_bad_files_are_refused_as_their_names_say(path: Path) -> None:
    with pytest.raises(VqcodecError) as caught:
        codec.decompress(path.read_bytes(), model=model_of("tiny"))
    kinds = [kind.__name__ for kind in type(caught.value).__mro__]
    assert path.stem.split("-")[-1] in kinds
