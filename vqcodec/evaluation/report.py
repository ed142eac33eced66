"""The report of an evaluation: tables, plots and a page that shows them."""

import contextlib
import csv
import io
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vqcodec import __version__, files, models
from vqcodec.evaluation import plots
from vqcodec.evaluation.baselines import BASELINES
from vqcodec.evaluation.evaluate import METRICS, WINDOWS, Evaluation, Measurement, curves
from vqcodec.picture.metrics import MAX_DB, installed

__all__ = ["check_targets", "summary", "targets", "text", "write"]

PLOTS = {"psnr_db": "psnr", "ms_ssim": "ms_ssim"}  # metric -> file
NAMES = {"psnr_db": "PSNR", "ms_ssim": "MS-SSIM"}
LABELS = {"psnr_db": "RGB PSNR (dB)", "ms_ssim": "MS-SSIM (dB): -10 log10(1 - MS-SSIM)"}
TABLES = ("results.csv", "results.json", "summary.md")
PACKAGES = ("matplotlib", "numpy", "pillow", "pytorch-msssim", "scipy", "torch")


def targets(folder: Path) -> tuple[Path, ...]:
    """Every file that `write` may write."""
    plotted = [f"{name}{suffix}" for name in PLOTS.values() for suffix in (".svg", ".png")]
    return tuple(folder / name for name in (*TABLES, *plotted))


def check_targets(folder: Path, force: bool) -> None:
    """Refuse a folder before the work of hours, not after it.

    Raises:
        OSError: as from `files.check_target`.
    """
    for target in targets(folder):
        files.check_target(str(target), force, new_folders=True)


def write(folder: Path, found: Evaluation, force: bool) -> None:
    """Write the report, each file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    drawn = _draw(found)
    everything = summary(found) | {"measurements": [asdict(m) for m in found.measurements]}
    contents = {
        "results.csv": _csv(found.measurements).encode(errors="backslashreplace"),  # odd names
        "results.json": (json.dumps(everything, indent=1) + "\n").encode(),
        **drawn,
        "summary.md": _page(found, [name for name in drawn if name.endswith(".svg")]),
    }
    for name, data in contents.items():
        files.write(str(folder / name), data, force, new_folders=True)


def summary(found: Evaluation) -> dict[str, Any]:
    """Everything but the single measurements, ready for JSON."""
    return {
        "folder": found.options.folder.resolve().name,
        "model": Path(found.options.model).stem,
        "model_id": models.load(found.options.model).model_id.hex(),
        "effort": found.options.effort,
        "pictures": found.pictures,
        "failed": found.failed,
        "notes": found.notes,
        "versions": _versions(found),
        "threads": _threads(),
        "means": [asdict(mean) for mean in found.means],
        "bd_rates": [asdict(rate) for rate in found.bd_rates],
    }


def text(folder: Path, found: Evaluation) -> str:
    """The results in short."""
    lines = [bd_table(found), ""] if found.bd_rates else []
    return "\n".join([*lines, f"{len(found.pictures)} pictures; see {folder / 'summary.md'}"])


def bd_table(found: Evaluation) -> str:
    """BD-rates as a Markdown table: a row per baseline, a column per metric and window.

    Of each metric, a last column has the mean of the pictures' own in the first window.
    """
    heads, columns = [], []
    for metric in METRICS:
        heads += [f"{NAMES[metric]}, {low:g}-{high:g} bpp" for low, high in WINDOWS]
        columns += [(metric, window, "percent") for window in WINDOWS]
        heads.append(f"{NAMES[metric]}, each picture")
        columns.append((metric, WINDOWS[0], "percent_each"))
    cells = {(r.baseline, r.metric, (r.low_bpp, r.high_bpp)): r for r in found.bd_rates}
    rows = [
        [baseline]
        + [
            _percent(getattr(cells.get((baseline, metric, window)), which, None))
            for metric, window, which in columns
        ]
        for baseline in dict.fromkeys(rate.baseline for rate in found.bd_rates)
    ]
    return _table(["vqcodec against", *heads], rows)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.1f} %"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def _csv(measurements: Sequence[Measurement]) -> str:
    file = io.StringIO()
    columns = [field.name for field in fields(Measurement)]
    table = csv.DictWriter(file, columns, lineterminator="\n")
    table.writeheader()
    for measurement in measurements:  # None, where there is no MS-SSIM, is written as nothing
        table.writerow(asdict(measurement) | {"setting": f"{measurement.setting:g}"})
    return file.getvalue()


def _means_table(found: Evaluation) -> str:
    heads = ["codec", "setting", "bytes", "bpp", "PSNR dB", "MS-SSIM", "encode s", "decode s"]
    rows = [
        [
            mean.codec,
            f"{mean.setting:g}",
            f"{mean.num_bytes:.0f}",
            f"{mean.bpp:.4f}",
            f"{mean.psnr_db:.2f}",
            "" if mean.ms_ssim is None else f"{mean.ms_ssim:.4f}",
            f"{mean.encode_seconds:.3f}",
            f"{mean.decode_seconds:.3f}",
        ]
        for mean in found.means
    ]
    return _table(heads, rows)


def _page(found: Evaluation, plotted: Sequence[str]) -> bytes:
    options, model_id = found.options, models.load(found.options.model).model_id.hex()
    left_out = f"; {len(found.failed)} could not be measured" if found.failed else ""
    versions = ", ".join(f"{name} {number}" for name, number in _versions(found).items())
    parts = [
        "# Rate and distortion",
        f"Means over {len(found.pictures)} pictures of `{options.folder.resolve().name}`"
        f"{left_out}. Model `{Path(options.model).stem}` ({model_id}), effort {options.effort}.",
        *(f"![{name.removesuffix('.svg')}]({name})" for name in plotted),
        "## BD-rate",
        "Bytes that vqcodec needs beyond the other codec for the same quality, on average; negative"
        " is fewer; n/a where the curves have no quality in common. Of the mean curves; and, last,"
        " the mean of the pictures' own.",
        bd_table(found) if found.bd_rates else "None: there was nothing to compare with.",
        "## Means",
        f"PSNR is over all RGB samples, at most {MAX_DB:g} dB (identical, or as good as); bpp"
        " counts every byte of the file. Times are of single runs.",
        _means_table(found),
        "## Made with",
        f"{versions}; {_threads()} threads.",
        *(f"Note: {note}." for note in found.notes),
    ]
    return ("\n\n".join(parts) + "\n").encode(errors="backslashreplace")


def _draw(found: Evaluation) -> dict[str, bytes]:
    """File name -> bytes of each plot; none without matplotlib, as a note says."""
    if not installed("matplotlib"):
        return {}
    drawn = {}
    for metric, name in PLOTS.items():
        if points := curves(found.measurements, metric):
            having = {m.picture for m in found.measurements if getattr(m, metric) is not None}
            title = f"{NAMES[metric]} and rate, mean over {len(having)} pictures"
            for suffix, data in plots.draw(points, title, LABELS[metric]).items():
                drawn[name + suffix] = data
    return drawn


def _versions(found: Evaluation) -> dict[str, str]:
    """Of everything that the numbers depend on."""
    versions = {"vqcodec": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    for name in found.options.baselines:
        if number := BASELINES[name].version:
            versions[f"{name} of pillow"] = number
    return versions


def _threads() -> int:
    import torch

    return torch.get_num_threads()
