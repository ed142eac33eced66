"""Time and memory of a very large picture: python benchmarks/large.py FOLDER

A mosaic of the folder's pictures is compressed and decompressed from the shell, and regions of it
are decompressed. 100 megapixels, the default, take from a quarter of an hour to an hour.
"""

import argparse
import random
import tempfile
from pathlib import Path
from statistics import mean

from cost import cost_of, vqcodec_command
from machine import describe
from mosaic import mosaic, pictures_of

SIDE, REGIONS = 512, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("--size", default="10000x10000", help="of the mosaic, WIDTHxHEIGHT")
    asked = parser.parse_args()
    width, height = map(int, asked.size.split("x"))
    print(describe())
    with tempfile.TemporaryDirectory() as name:
        png, vqc, out = (Path(name) / file for file in ("large.png", "large.vqc", "out.png"))
        mosaic(pictures_of(asked.folder), width, height).save(png, compress_level=1)
        print(f"compress    {cost_of(vqcodec_command('compress', png, '-o', vqc))}", flush=True)
        print(f"            {vqc.stat().st_size} bytes")
        print(f"decompress  {cost_of(vqcodec_command('decompress', vqc, '-o', out))}", flush=True)
        rng, seconds = random.Random(0), []
        for _ in range(REGIONS):
            x, y = rng.randrange(width - SIDE + 1), rng.randrange(height - SIDE + 1)
            region = f"{x},{y},{SIDE},{SIDE}"
            command = vqcodec_command("decompress", vqc, "--region", region, "-fo", out)
            seconds.append(cost_of(command).seconds)
        print(f"{REGIONS} regions of {SIDE} x {SIDE}: {mean(seconds):.2f} s on average, ", end="")
        print(f"{min(seconds):.2f} to {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
