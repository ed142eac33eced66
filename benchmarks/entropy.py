"""Bits of whole files beside the entropy of their indices: python benchmarks/entropy.py FOLDER

Says what the prior is worth: without context, an index costs the entropy of its codebook's indices
in the picture, or over all pictures. Every fourth picture of the folder is taken.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from machine import describe
from mosaic import pictures_of
from numpy.typing import NDArray

import vqcodec
from vqcodec.decoder.grids import read_grids

Counts = dict[tuple[int, int], NDArray[np.int64]]  # (level, slice) -> how often each index occurs


def counts_of(data: bytes) -> Counts:
    """How often each index occurs in a file, for each codebook."""
    return {
        (level, k): np.bincount(grid[..., k].ravel(), minlength=4096)
        for level, grid in enumerate(read_grids(data).grids)
        for k in range(grid.shape[-1])
    }


def entropy_bits(counts: Counts) -> float:
    """Bits of all indices at the entropy of each codebook's."""
    bits = 0.0
    for each in counts.values():
        seen = each[each > 0]
        bits -= float((seen * np.log2(seen / seen.sum())).sum())
    return bits


def together(found: Sequence[Counts]) -> Counts:
    keys = {key for counts in found for key in counts}
    return {key: sum((c[key] for c in found if key in c), np.int64(0)) for key in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("--every", type=int, default=4, help="take every Nth picture")
    asked = parser.parse_args()
    print(describe())
    bits = alone = pooled = 0.0
    for quality in (20, 50):
        files = [vqcodec.compress(p, quality) for p in pictures_of(asked.folder)[:: asked.every]]
        found = [counts_of(data) for data in files]
        bits += 8 * sum(map(len, files))
        alone += sum(map(entropy_bits, found))
        pooled += entropy_bits(together(found))
    print(f"files: {bits:.0f} bits, headers included")
    print(
        f"entropy of each picture's indices: {alone:.0f}; files {100 * (bits / alone - 1):+.1f} %"
    )
    print(f"entropy over all pictures: {pooled:.0f}; files {100 * (bits / pooled - 1):+.1f} %")


if __name__ == "__main__":
    main()
