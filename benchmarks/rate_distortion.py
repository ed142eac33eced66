"""Rate-distortion tables of both models: python benchmarks/rate_distortion.py KODAK OUT

Runs `vqcodec evaluate` with the qualities of the tables in the documentation; the reports lie in
OUT/photo and OUT/photo-ssim. On the 24 Kodak pictures it takes a few hours.
"""

import argparse
import subprocess
from pathlib import Path

from cost import vqcodec_command
from machine import describe

QUALITIES = {
    "photo": "0,10,20,35,50,60,70,85,100",
    "photo-ssim": "0,20,40,50,60,70,100",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("output", type=Path, help="folder for the reports")
    parser.add_argument("--qualities", help="instead of those of the tables, for a shorter run")
    asked = parser.parse_args()
    print(describe(), flush=True)
    for model, qualities in QUALITIES.items():
        options = ["--model", model, "--qualities", asked.qualities or qualities]
        report = asked.output / model
        subprocess.run(
            vqcodec_command("evaluate", asked.folder, "-o", report, *options), check=True
        )


if __name__ == "__main__":
    main()
