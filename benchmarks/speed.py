"""How long vqcodec takes: python benchmarks/speed.py FOLDER, whose pictures it is tried on.

With `--against CHECKOUT`, the same by the vqcodec of another clone, in alternating runs, and the
ratio of each pair: on a machine that others use too, ratios are steadier than seconds.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cost import Cost, cost_of, environment, vqcodec_command
from machine import describe
from mosaic import mosaic, pictures_of
from PIL import Image

import vqcodec

THUMBNAIL, THUMBNAILS = 128, 32
REGION = 512
OTHERS = {  # if installed; at settings that give about the bytes of `-q 50`
    "cwebp": ["cwebp", "-quiet", "-m", "6", "-q", "10", "IN", "-o", "OUT.webp"],
    "avifenc": ["avifenc", "-s", "4", "-q", "30", "IN", "OUT.avif"],
    "cjxl": ["cjxl", "-d", "6", "IN", "OUT.jxl"],
}


def of_pictures(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"picture*{suffix}"))


def of_thumbnails(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"thumbnail*{suffix}"))


def decompress(path: Path) -> object:
    return vqcodec.decompress(path.read_bytes())


# What is timed in one process with the networks loaded: on which files, by what.
IN_PROCESS: dict[str, tuple[Callable[[Path, str], list[Path]], str, Callable[[Path], object]]] = {
    "compress": (of_pictures, ".png", vqcodec.compress),
    "decompress": (of_pictures, ".vqc", decompress),
    "compress thumbnails": (of_thumbnails, ".png", vqcodec.compress),
    "decompress thumbnails": (of_thumbnails, ".vqc", decompress),
}


def in_process(name: str, folder: Path) -> float:
    """Mean seconds for one file of a workload."""
    find, suffix, work = IN_PROCESS[name]
    paths = find(folder, suffix)
    vqcodec.decompress(vqcodec.compress(Image.new("RGB", (8, 8))))  # loads the networks
    start = time.perf_counter()
    for path in paths:
        work(path)
    return (time.perf_counter() - start) / len(paths)


def from_shell(folder: Path) -> dict[str, list[str]]:
    """Commands of which each run is one process, start included."""
    out = folder / "out"
    commands = {}
    for name, file in (("one picture", "picture000"), ("large", "large")):
        png, vqc = folder / f"{file}.png", folder / f"{file}.vqc"
        commands[f"shell: compress {name}"] = vqcodec_command("compress", png, "-fo", f"{out}.vqc")
        commands[f"shell: decompress {name}"] = vqcodec_command(
            "decompress", vqc, "-fo", f"{out}.png"
        )
    commands["shell: region of large"] = vqcodec_command(
        "decompress",
        folder / "large.vqc",
        "--region",
        f"0,0,{REGION},{REGION}",
        "-fo",
        f"{out}.png",
    )
    for name, words in OTHERS.items():
        if shutil.which(name):
            named = {"IN": str(folder / "picture000.png")}
            commands[f"shell: {name}"] = [
                named.get(word, word.replace("OUT", str(out))) for word in words
            ]
    return commands


def prepare(pictures: Sequence[Path], large: tuple[int, int] | None, folder: Path) -> None:
    """Write the pictures, parts of them, a large picture, and the `.vqc` files of all."""
    rng = random.Random(0)
    for number, path in enumerate(pictures):
        Image.open(path).convert("RGB").save(folder / f"picture{number:03}.png")
    for number in range(THUMBNAILS):
        whole = Image.open(rng.choice(pictures)).convert("RGB")
        x, y = rng.randrange(whole.width - THUMBNAIL), rng.randrange(whole.height - THUMBNAIL)
        part = whole.crop((x, y, x + THUMBNAIL, y + THUMBNAIL))
        part.save(folder / f"thumbnail{number:03}.png")
    if large:
        mosaic(pictures, *large).save(folder / "large.png")
    for png in sorted(folder.glob("*.png")):
        png.with_suffix(".vqc").write_bytes(vqcodec.compress(png, effort=0))


def once(name: str, folder: Path, checkout: Path | None) -> Cost:
    """One run of a workload, in a process of its own."""
    if name in IN_PROCESS:
        command = [sys.executable, __file__, str(folder), "--one", name]
        env = environment(checkout)
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        return Cost(float(done.stdout), 0)
    return cost_of(from_shell(folder)[name], checkout)


def line(name: str, costs: Sequence[Cost], others: Sequence[Cost]) -> str:
    """Median, range and memory; with other costs, the median ratio to them and its range."""
    seconds = sorted(cost.seconds for cost in costs)
    text = f"{name:24} {median(seconds):8.3f} {seconds[0]:8.3f} {seconds[-1]:8.3f}"
    peak = median(cost.peak_bytes for cost in costs)
    text += f" {peak / 1e6:7.0f}" if peak else f" {'':7}"
    if others:
        ratios = sorted(a.seconds / b.seconds for a, b in zip(costs, others, strict=True))
        text += f" {median(ratios):7.3f} {ratios[0]:7.3f} {ratios[-1]:7.3f}"
    return text


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("--count", type=int, default=6, help="use the first N pictures")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each")
    parser.add_argument("--only", default="", help="only the rows whose names begin like this")
    parser.add_argument("--large", default="4032x3024", help="size of the large picture: 12 MP")
    parser.add_argument("--against", type=Path, help="another clone to compare with")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a run of a workload, in a child
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.one:
        print(in_process(asked.one, asked.folder))
        return
    print(describe())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [row for row in (*IN_PROCESS, *from_shell(folder)) if row.startswith(asked.only)]
        width, height = map(int, asked.large.split("x"))
        large = (width, height) if any("large" in row for row in rows) else None
        prepare(pictures_of(asked.folder)[: asked.count], large, folder)
        against = " ratio to the other: median, least, most" if asked.against else ""
        print(f"{'':24} median s    least     most      MB{against}")
        for name in rows:
            ours, others = [], []
            for _ in range(asked.repeat):
                ours.append(once(name, folder, None))
                if asked.against:
                    others.append(once(name, folder, asked.against.resolve()))
            print(line(name, ours, others), flush=True)


if __name__ == "__main__":
    main()
