"""Command-line options that several commands share, and the checks of what they are given."""

import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from vqcodec import __version__, limits
from vqcodec.cli import jobs
from vqcodec.cli.console import Report
from vqcodec.cli.jobs import Job
from vqcodec.config import Tuning
from vqcodec.files import STREAM
from vqcodec.options import LEAST, MOST
from vqcodec.resources import set_threads

__all__ = [
    "Bpp",
    "Effort",
    "Force",
    "Inputs",
    "Json",
    "Levels",
    "MaxMemory",
    "MaxPixels",
    "ModelName",
    "ModelOrTune",
    "Output",
    "Psnr",
    "Quality",
    "QualityOrTarget",
    "Recursive",
    "Region",
    "Size",
    "Threads",
    "Tune",
    "Weights",
    "Workers",
    "finite",
    "one_of",
    "parse_bytes",
    "parse_names",
    "parse_qualities",
    "parse_region",
    "parse_size",
    "picture_suffix",
    "pixel_limit",
    "plan_jobs",
    "print_version",
    "use_threads",
]

# Peak memory of compress and decompress in bytes, estimated from pictures of 0.1 to 100 megapixels
# with photo (RGB; RGBA of 25), to 16 with photo-ssim: for code and networks; a pixel of the tile at
# work; a pixel of all others meanwhile; a pixel while a picture file is read or written.
ANY_PICTURE, TILE_PIXEL, IDLE_PIXEL, FILE_PIXEL = 480_000_000, 1150, 4, 14

LONGEST = 100  # text that is read as numbers; no sensible ones are longer

UNITS = {
    **{"": 1, "b": 1},
    **{"k": 1000, "kb": 1000, "kib": 1024},
    **{"m": 1000**2, "mb": 1000**2, "mib": 1024**2},
    **{"g": 1000**3, "gb": 1000**3, "gib": 1024**3},
}


def finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def positive(value: float | None) -> float | None:
    if value is not None and not LEAST <= value <= MOST:
        raise typer.BadParameter(f"{value} is not a number from {LEAST:g} to {MOST:g}")
    return value


def parse_bytes(text: str) -> int:
    """Bytes from `20000`, `20kB` or `19.5KiB`; letters may be large or small."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([a-z]*)", text.strip().lower())
    factor = UNITS.get(match[2]) if match else None
    if match is None or factor is None:
        raise typer.BadParameter(f"{text!r} is not a size, as in 20000, 20kB, 64KiB or 1.5GB")
    if not (num_bytes := int(Decimal(match[1]) * factor)):
        raise typer.BadParameter(f"{text!r} is less than a byte")
    return num_bytes


def one_of(**given: object) -> None:
    """Refuse more than one of options that decide on the same thing."""
    if len(names := [f"--{name}" for name, value in given.items() if value is not None]) > 1:
        raise typer.BadParameter(f"{' and '.join(names)} exclude one another")


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"vqcodec {__version__}")
        raise typer.Exit


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files to read; - is standard input.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="File or directory to write (a name that ends with / is a directory); - is "
        "standard output.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "-f", "--force", help="Overwrite existing files; allow binary data on a terminal."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON, one object per line.")]
Recursive = Annotated[
    bool,
    typer.Option(
        "-r",
        "--recursive",
        help="Also take directories, with all below them (symlinked ones are skipped); OUT gets "
        "the same structure.",
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="X,Y,W,H",
        help="Decode only this part of the picture: left, top, width and height in pixels.",
    ),
]
Levels = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Use only the first N levels of detail (photo has 13): a coarser picture.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option("--max-pixels", min=1, metavar="N", help="Refuse pictures with more pixels."),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        "--max-memory",
        metavar="BYTES",
        parser=parse_bytes,
        help="Refuse pictures that are estimated to need more memory, for example 800MB or 2GB.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "-j",
        "--workers",
        min=1,
        metavar="N",
        show_default="processors, up to 4",
        help="Processes that decode the tiles of a large picture in parallel; in compress, for "
        "--verify.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        show_default="as many as processors",
        help="Threads of each process. With another number, compress may write slightly other "
        "files, and pixels may differ by a grey level.",
    ),
]
Effort = Annotated[
    int,
    typer.Option(min=0, max=2, help="How long to search: 0 is fast, 2 gives the smallest files."),
]
Quality = Annotated[
    int, typer.Option("-q", "--quality", min=0, max=100, help="Higher means more detail.")
]
QualityOrTarget = Annotated[
    float | None,
    typer.Option(
        "-q",
        "--quality",
        min=0,
        max=100,
        callback=finite,
        show_default="50",
        help="Higher means better quality and larger files.",
    ),
]
Bpp = Annotated[
    float | None,
    typer.Option(
        metavar="BPP",
        callback=positive,
        help="Instead of -q: bits per pixel of the file, met within 2 %.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="BYTES",
        parser=parse_bytes,
        help="Instead of -q: the largest file to write, for example 20000, 20kB, 64KiB or 1.5MB.",
    ),
]
Psnr = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        callback=positive,
        help="Instead of -q: the PSNR in dB to reach, with the smallest file.",
    ),
]
Tune = Annotated[
    Tuning | None,
    typer.Option(
        show_default="psnr",
        help="What to optimise: squared error (psnr), or perceived quality (ssim: MS-SSIM).",
    ),
]
ModelOrTune = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        show_default="photo",
        help="Model to use: a name from `vqcodec models`, or a weights file. Instead of --tune.",
    ),
]
ModelName = Annotated[
    str,
    typer.Option(metavar="NAME", help="A name from `vqcodec models`, or a weights file."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Weights file to decode with, if the model did not come with vqcodec.",
    ),
]


def use_threads(threads: int | None) -> None:
    """Set the number of threads, if one is given, before a library starts some."""
    if threads is not None:
        set_threads(threads)


def pixel_limit(max_pixels: int, max_memory: int | None) -> int:
    """Pixels that a picture may have by both limits."""
    if max_memory is None:
        return max_pixels
    if (room := max_memory - ANY_PICTURE) < TILE_PIXEL:
        raise typer.BadParameter(f"even a small picture needs {ANY_PICTURE // 10**6} MB")
    tile = limits.TILE**2
    pixels = min((room - TILE_PIXEL * tile) // IDLE_PIXEL + tile, room // FILE_PIXEL)
    return min(max_pixels, pixels if pixels > tile else room // TILE_PIXEL)


def plan_jobs(
    report: Report,
    inputs: list[str],
    output: str | None,
    suffix: str,
    collected: frozenset[str],
    recursive: bool,
    force: bool,
    check_source: Callable[[str], None] | None = None,
) -> list[Job]:
    """`jobs.plan`, after refusing what makes no sense on the command line."""
    if STREAM in inputs and (len(inputs) > 1 or recursive):
        raise typer.BadParameter("- (standard input) goes with no other input and no -r")
    if output == STREAM and (len(inputs) > 1 or recursive):
        raise typer.BadParameter("-o - (standard output) takes one result only")
    if output == "":
        raise typer.BadParameter("-o needs a name")
    to_stdout = output == STREAM or (output is None and STREAM in inputs)
    if report.as_json and to_stdout:
        raise typer.BadParameter("--json and the result cannot both go to standard output")
    return jobs.plan(
        inputs,
        output,
        suffix,
        collected=collected,
        recursive=recursive,
        force=force,
        complain=report.error,
        check_source=check_source,
    )


def picture_suffix(output: str | None, several: bool = False) -> str:
    """Format of the pictures written: what OUT says if it is a file, else .png."""
    if output is None or output == STREAM or several or jobs.is_folder(output):
        return ".png"
    from vqcodec.picture.writing import OUTPUT_EXTENSIONS

    suffix = Path(output).suffix.lower()
    if suffix and suffix not in OUTPUT_EXTENSIONS:
        known = " ".join(OUTPUT_EXTENSIONS)
        raise typer.BadParameter(f"cannot write {suffix} files; known: {known}")
    return suffix or ".png"


def parse_size(text: str, count: int) -> tuple[int, int]:
    """(width, height) from `WxH`."""
    width, _, height = _short(text).lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, as in 256x256")
    if int(width) * int(height) * count > limits.MAX_PIXELS:
        raise typer.BadParameter(f"{count} x {text} is over {limits.MAX_PIXELS} pixels")
    return int(width), int(height)


def parse_region(text: str) -> tuple[int, int, int, int]:
    """(x, y, width, height) from `X,Y,W,H`."""
    numbers = [int(part) for part in _short(text).split(",") if part.strip().isdecimal()]
    if text.count(",") != 3 or len(numbers) != 4 or 0 in numbers[2:]:
        raise typer.BadParameter(f"{text!r} is not X,Y,WIDTH,HEIGHT, as in 0,0,640,480")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _short(text: str) -> str:
    """Text of numbers, or none of it: a part of a number would be another number."""
    return text if len(text) <= LONGEST else ""


def parse_qualities(text: str) -> tuple[float, ...]:
    """Different qualities, lowest first, from `Q,Q,...`."""
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers, as in 20,50,80") from None
    if not all(0 <= value <= 100 for value in values):  # not so for nan either
        raise typer.BadParameter(f"{text!r}: qualities are from 0 to 100")
    return tuple(values)


def parse_names(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Different names among `known` from `NAME,NAME,...`; none from `none`."""
    names = () if text == "none" else tuple(dict.fromkeys(text.split(",")))
    if unknown := set(names).difference(known):
        listed = ", ".join(known)
        raise typer.BadParameter(f"{', '.join(sorted(unknown))!r} not known; {listed}; or none")
    return names
