"""What threads cost and gain: `python benchmarks/threads.py PICTURE [PICTURE ...]`.

Runs `vqcodec compress` and `decompress` in processes of their own: on the left upper 256 x 256
pixels of up to 8 pictures, and on 768 x 512 of the first that is so large. Prints seconds as the
clock has them and seconds of processor time, with the threads that each setting allows.
Run it twice: on an idle machine, and with `--busy`, beside one busy process for each processor.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe
from PIL import Image

# What the command sets by itself gives way to the environment. 300000 is what libgomp does when
# nothing is set, 1000 a few microseconds.
SETTINGS = {
    "as the command has it": {},
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "spinning as libgomp does": {"GOMP_SPINCOUNT": "300000"},
    "spinning briefly": {"GOMP_SPINCOUNT": "1000"},
    "OpenBLAS sleeping too": {"OPENBLAS_THREAD_TIMEOUT": "4"},
}
SPIN = "while True: pass"


def measure(words: list[str], settings: dict[str, str]) -> tuple[float, float]:
    """Seconds of the clock and of processors that a command takes."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "vqcodec", *words]
    subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, used


def crops(paths: list[Path], folder: Path) -> dict[str, Path]:
    """Folders of the pictures to compress, by what is in them."""
    small, large = folder / "small", folder / "large"
    for made in (small, large):
        made.mkdir()
    for path in paths[:8]:
        Image.open(path).convert("RGB").crop((0, 0, 256, 256)).save(small / f"{path.stem}.png")
    for path in paths:
        with Image.open(path) as image:
            if image.width >= 768 and image.height >= 512:
                image.convert("RGB").crop((0, 0, 768, 512)).save(large / "one.png")
                return {f"{len(paths[:8])} of 256 x 256": small, "1 of 768 x 512": large}
    return {f"{len(paths[:8])} of 256 x 256": small}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print(describe())
    spinners = os.cpu_count() if options.busy else 0
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(spinners or 0)]
    try:
        with tempfile.TemporaryDirectory() as name:
            compare(crops(options.pictures, Path(name)), Path(name), options.rounds)
    finally:
        for process in spinning:
            process.kill()


def compare(sources: dict[str, Path], folder: Path, rounds: int) -> None:
    print(f"{'':38} {'clock':>8} {'processors':>10}  seconds, least of {rounds}")
    for what, source in sources.items():
        coded, decoded = folder / f"{source.name}.vqc", folder / f"{source.name}.out"
        runs = {
            "compress": ["compress", "-f", "-r", str(source), "-o", str(coded)],
            "decompress": ["decompress", "-f", "-r", str(coded), "-o", str(decoded)],
        }
        for command, words in runs.items():
            print(f"{command}, {what}")
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
            for _ in range(rounds):  # in turns, as others use the machine more or less
                for name, settings in SETTINGS.items():
                    found[name].append(measure(words, settings))
            for name, times in found.items():
                wall, used = map(min, zip(*times, strict=True))
                print(f"  {name:36} {wall:8.2f} {used:10.2f}", flush=True)


if __name__ == "__main__":
    main()
