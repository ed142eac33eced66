"""Rate and distortion over a folder of pictures, of vqcodec and of other codecs.

Every number comes from the bytes of a real file, and from decoding just these bytes.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from PIL import Image

from vqcodec import codec, models
from vqcodec.errors import ImageError, VqcodecError
from vqcodec.evaluation.baselines import BASELINES
from vqcodec.evaluation.bdrate import Curve, bd_rate
from vqcodec.files import PICTURES
from vqcodec.options import DecodeOptions
from vqcodec.picture import reading
from vqcodec.picture.metrics import UInt8, installed, ms_ssim, ms_ssim_db, psnr_db

__all__ = [
    "BdRate",
    "Evaluation",
    "Mean",
    "Measurement",
    "Options",
    "curves",
    "evaluate",
    "find_pictures",
]

OURS = "vqcodec"
METRICS = ("psnr_db", "ms_ssim")
WINDOWS = ((0.05, 0.5), (0.05, 0.25))  # bits per pixel


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        qualities: of vqcodec, 0..100.
        baselines: names in `BASELINES`.
        skip: files that are no pictures to measure, such as the plots of an earlier report.
    """

    folder: Path
    qualities: tuple[float, ...]
    baselines: tuple[str, ...] = tuple(BASELINES)
    effort: int = 1
    model: str = "photo"
    skip: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One picture at one setting of one codec; bpp counts all bytes of the file."""

    picture: str
    codec: str
    setting: float
    width: int
    height: int
    num_bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Mean:
    """Means over the pictures at one setting; `ms_ssim` over those large enough for it."""

    codec: str
    setting: float
    pictures: int
    num_bytes: float
    bpp: float
    psnr_db: float
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class BdRate:
    """Rate that vqcodec needs relative to a baseline, between two rates; None if incomparable.

    Attributes:
        percent: of the mean curves.
        percent_each: the mean of the pictures' own BD-rates, which do not depend on how rate is
            allocated between pictures.
    """

    baseline: str
    metric: str
    low_bpp: float
    high_bpp: float
    percent: float | None
    percent_each: float | None


@dataclass(frozen=True)
class Evaluation:
    """Everything found; `failed` names the pictures that were left out."""

    options: Options
    measurements: tuple[Measurement, ...]
    means: tuple[Mean, ...]
    bd_rates: tuple[BdRate, ...]
    pictures: tuple[str, ...]
    failed: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Entrant:
    """A codec that takes part: picture (RGB) -> file at a setting -> pixels (H, W, 3)."""

    name: str
    settings: tuple[float, ...]
    encode: Callable[[Image.Image, float], bytes]
    decode: Callable[[bytes], UInt8]


def evaluate(
    options: Options,
    *,
    complain: Callable[[str, Exception], None],
    notes: Callable[[str], None] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Evaluation:
    """Measure all pictures of a folder, one after the other.

    A picture that fails with one codec is left out for all: means must be over the same pictures.

    Args:
        complain: called with each picture that could not be measured, and why.
        notes: called with a sentence on each thing that will be missing from the results.
        progress: called with the share of the work done, 0..1, and what is being done.
    Raises:
        ImageError: no pictures in the folder, or none that could be measured.
        ModelError: no such model.
    """
    paths = find_pictures(options.folder, options.skip)
    missing = tuple(_missing(options))
    for note in missing if notes else ():
        notes(note)  # type: ignore[misc]
    entrants = _entrants(options)
    _warm_up(entrants[0])
    measured: list[Measurement] = []
    failed: list[str] = []
    for number, path in enumerate(paths):
        name = path.relative_to(options.folder).as_posix()

        def advance(share: float, text: str, number: int = number, name: str = name) -> None:
            if progress:
                progress((number + share) / len(paths), f"{name}: {text}")

        try:
            measured += _measure_picture(path, name, entrants, advance)
        except (VqcodecError, OSError, MemoryError) as error:
            complain(str(path), error)
            failed.append(name)
    if not measured:
        raise ImageError(f"{options.folder}: none of its {len(paths)} pictures could be measured")
    return Evaluation(
        options=options,
        measurements=tuple(measured),
        means=tuple(_means(measured)),
        bd_rates=tuple(_bd_rates(measured)),
        pictures=tuple(dict.fromkeys(m.picture for m in measured)),
        failed=tuple(failed),
        notes=missing,
    )


def find_pictures(folder: Path, skip: Sequence[Path] = ()) -> list[Path]:
    """All picture files below a folder, in order of their names.

    Raises:
        ImageError: there are none.
    """
    left_out = {path.resolve() for path in skip}
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in PICTURES and path.is_file() and path.resolve() not in left_out
    ]
    if not found:
        raise ImageError(f"{folder}: no pictures there: no {' '.join(sorted(PICTURES))}")
    return found


def curves(
    measurements: Sequence[Measurement], metric: str
) -> dict[str, list[tuple[float, float]]]:
    """Codec -> (mean bpp, mean metric in dB) at each of its settings, in their order.

    Both means are over the pictures that have the metric; codecs without any are left out.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for (name, _), group in _by_setting(measurements).items():
        having = [(m.bpp, v) for m in group if (v := getattr(m, metric)) is not None]
        if having:
            rate, value = (fmean(column) for column in zip(*having, strict=True))
            point = (rate, ms_ssim_db(value) if metric == "ms_ssim" else value)
            found.setdefault(name, []).append(point)
    return found


def _entrants(options: Options) -> list[Entrant]:
    """vqcodec first, then the baselines that this Pillow has."""

    def encode(picture: Image.Image, quality: float) -> bytes:
        return codec.compress(picture, quality, effort=options.effort, model=options.model)

    def decode(data: bytes) -> UInt8:
        return codec.decompress_picture(data, DecodeOptions(model=options.model)).rgb

    models.load(options.model)  # an unknown model is an error of the run, not of each picture
    entrants = [Entrant(OURS, options.qualities, encode, decode)]
    for name in options.baselines:
        if (baseline := BASELINES[name]).available:
            entrants.append(Entrant(name, baseline.settings, baseline.encode, _read))
    return entrants


def _read(file: bytes | Path) -> UInt8:
    return reading.read_picture(file, strip=True).rgb


def _warm_up(entrant: Entrant) -> None:
    """Load the networks, which belongs to no picture's time."""
    entrant.decode(entrant.encode(Image.new("RGB", (64, 64)), entrant.settings[0]))


def _measure_picture(
    path: Path, name: str, entrants: Sequence[Entrant], advance: Callable[[float, str], None]
) -> list[Measurement]:
    rgb = _read(path)
    found: list[Measurement] = []
    work = [(entrant, setting) for entrant in entrants for setting in entrant.settings]
    for number, (entrant, setting) in enumerate(work):
        advance(number / len(work), f"{entrant.name} {setting:g}")
        found.append(_measure(name, rgb, entrant, setting))
    return found


def _measure(name: str, rgb: UInt8, entrant: Entrant, setting: float) -> Measurement:
    source = Image.fromarray(rgb)
    start = time.perf_counter()
    data = entrant.encode(source, setting)
    middle = time.perf_counter()
    decoded = entrant.decode(data)
    end = time.perf_counter()
    height, width = rgb.shape[:2]
    return Measurement(
        picture=name,
        codec=entrant.name,
        setting=setting,
        width=width,
        height=height,
        num_bytes=len(data),
        bpp=8 * len(data) / (width * height),
        psnr_db=psnr_db(rgb, decoded),
        ms_ssim=ms_ssim(rgb, decoded),
        encode_seconds=round(middle - start, 4),
        decode_seconds=round(end - middle, 4),
    )


def _by_setting(
    measurements: Sequence[Measurement],
) -> dict[tuple[str, float], list[Measurement]]:
    groups: dict[tuple[str, float], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.codec, measurement.setting), []).append(measurement)
    return groups


def _means(measurements: Sequence[Measurement]) -> Iterator[Mean]:
    for (name, setting), group in _by_setting(measurements).items():
        similarities = [m.ms_ssim for m in group if m.ms_ssim is not None]
        yield Mean(
            codec=name,
            setting=setting,
            pictures=len(group),
            num_bytes=fmean(m.num_bytes for m in group),
            bpp=fmean(m.bpp for m in group),
            psnr_db=fmean(m.psnr_db for m in group),
            ms_ssim=fmean(similarities) if similarities else None,
            encode_seconds=fmean(m.encode_seconds for m in group),
            decode_seconds=fmean(m.decode_seconds for m in group),
        )


def _bd_rates(measurements: Sequence[Measurement]) -> Iterator[BdRate]:
    if not installed("scipy"):
        return
    by_picture: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        by_picture.setdefault(measurement.picture, []).append(measurement)
    for metric in METRICS:
        mean = _curves_through(measurements, metric)
        each = [_curves_through(group, metric) for group in by_picture.values()]
        for baseline, window in itertools.product([n for n in mean if n != OURS], WINDOWS):
            own = [rate for c in each if (rate := _bd_rate(c, baseline, window)) is not None]
            rate = _bd_rate(mean, baseline, window)
            yield BdRate(baseline, metric, *window, rate, fmean(own) if own else None)


def _curves_through(measurements: Sequence[Measurement], metric: str) -> dict[str, Curve]:
    return {name: Curve.through(p) for name, p in curves(measurements, metric).items()}


def _bd_rate(found: dict[str, Curve], baseline: str, window: tuple[float, float]) -> float | None:
    """vqcodec against a baseline; None where they have no curves, or no values in common."""
    if OURS not in found or baseline not in found:
        return None
    return bd_rate(found[OURS], found[baseline], window)


def _missing(options: Options) -> Iterator[str]:
    """What the results will lack, a line each."""
    for name in options.baselines:
        if not BASELINES[name].available:
            yield f"no {name}: this Pillow lacks it"
    for package, what in (
        ("pytorch_msssim", "MS-SSIM"),
        ("scipy", "BD-rates"),
        ("matplotlib", "plots"),
    ):
        if not installed(package):
            yield f"no {what}: {package} is not installed; pip install 'vqcodec[eval]'"
