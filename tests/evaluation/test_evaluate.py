import csv
import inspect
import io
import json
import os
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vqcodec import codec
from vqcodec.cli.app import app
from vqcodec.errors import ImageError
from vqcodec.evaluation import evaluate, report
from vqcodec.evaluation.baselines import BASELINES
from vqcodec.evaluation.bdrate import Curve, bd_rate
from vqcodec.picture import metrics
from vqcodec.training.drawings import draw

COLUMNS = (
    "picture,codec,setting,width,height,num_bytes,bpp,psnr_db,ms_ssim,encode_seconds,decode_seconds"
)
Rows = list[dict[str, str]]


def run(*arguments: str | Path) -> Result:
    # Typer before 0.16 mixes the two outputs unless told otherwise; later it knows no such option.
    apart = "mix_stderr" in inspect.signature(CliRunner).parameters
    options: Any = {"mix_stderr": False} if apart else {}
    return CliRunner(**options).invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="session")
def model(tiny_weights: dict[str, Path]) -> Path:
    return tiny_weights["residual"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture large enough for MS-SSIM, and a small grey one in a folder below."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "below").mkdir()
    Image.fromarray(draw(np.random.default_rng(1), 176)).save(folder / "a.png")
    grey = Image.fromarray(draw(np.random.default_rng(2), 96)).convert("L").crop((0, 0, 96, 64))
    grey.save(folder / "below" / "b.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def done(
    pictures: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """The folder of one full report, and what the command said."""
    for package in ("pytorch_msssim", "scipy", "matplotlib"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("out") / "deep" / "report"
    line = ("--qualities", "80,20", "--baselines", "jpeg", "--model", model, "--json")
    result = run(pictures, "-o", folder, *line)
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture
def rows(done: tuple[Path, Result]) -> Rows:
    return list(csv.DictReader(io.StringIO((done[0] / "results.csv").read_text())))


@pytest.fixture
def quick(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    """Arguments of a run without baselines over one small picture, in its own working folder."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Image.fromarray(draw(np.random.default_rng(3), 64)).save("in/c.png")
    return ["in", "--qualities", "50", "--baselines", "none", "--effort", "0", "--model", model]


def row_of(rows: Rows, picture: str, name: str, setting: str) -> dict[str, str]:
    (row,) = (
        r for r in rows if (r["picture"], r["codec"], r["setting"]) == (picture, name, setting)
    )
    return row


def everything() -> list[str]:
    return sorted(p.as_posix() for p in Path().rglob("*") if p.is_file())


# The report


def test_csv_has_a_row_per_picture_codec_and_setting(done: tuple[Path, Result], rows: Rows) -> None:
    assert (done[0] / "results.csv").read_text().startswith(COLUMNS + "\n")
    settings = [("vqcodec", q) for q in ("20", "80")]
    settings += [("jpeg", f"{q:g}") for q in BASELINES["jpeg"].settings]
    wanted = [(picture, *s) for picture in ("a.png", "below/b.png") for s in settings]
    assert [(r["picture"], r["codec"], r["setting"]) for r in rows] == wanted
    assert all(bool(row["ms_ssim"]) == (row["picture"] == "a.png") for row in rows)


def test_a_jpeg_row_can_be_recomputed(pictures: Path, rows: Rows) -> None:
    import torch
    from pytorch_msssim import ms_ssim

    row = row_of(rows, "a.png", "jpeg", "30")
    file = io.BytesIO()
    source = Image.open(pictures / "a.png")
    source.save(file, "JPEG", quality=30, subsampling=2, optimize=True)
    x, y = (np.asarray(p.convert("RGB"), np.float64) for p in (source, Image.open(file)))
    assert int(row["num_bytes"]) == len(file.getvalue())
    assert float(row["bpp"]) == pytest.approx(8 * len(file.getvalue()) / 176**2)
    assert float(row["psnr_db"]) == pytest.approx(-10 * np.log10(((x - y) ** 2).mean() / 255**2))
    tensors = [torch.from_numpy(p).permute(2, 0, 1)[None] for p in (x, y)]
    assert float(row["ms_ssim"]) == pytest.approx(float(ms_ssim(*tensors)), abs=1e-4)


def test_a_row_of_ours_can_be_recomputed(pictures: Path, model: Path, rows: Rows) -> None:
    row = row_of(rows, "below/b.png", "vqcodec", "80")
    source = Image.open(pictures / "below" / "b.png").convert("RGB")
    data = codec.compress(source, 80, model=str(model))
    decoded = codec.decompress(data, model=str(model))
    assert int(row["num_bytes"]) == len(data)
    assert float(row["bpp"]) == pytest.approx(8 * len(data) / (96 * 64))
    mse = ((np.asarray(source, np.float64) - np.asarray(decoded)) ** 2).mean()
    assert float(row["psnr_db"]) == pytest.approx(-10 * np.log10(mse / 255**2), abs=1e-3)
    assert float(row["encode_seconds"]) > 0 and float(row["decode_seconds"]) > 0


def test_json_has_means_and_bd_rates_of_the_rows(done: tuple[Path, Result], rows: Rows) -> None:
    found = json.loads((done[0] / "results.json").read_text())
    assert len(found["measurements"]) == len(rows)
    assert found["pictures"] == ["a.png", "below/b.png"] and not found["failed"]
    assert {"vqcodec", "torch", "pillow", "jpeg of pillow"} <= found["versions"].keys()
    chosen = [r for r in rows if (r["codec"], r["setting"]) == ("jpeg", "50")]
    (mean,) = (m for m in found["means"] if (m["codec"], m["setting"]) == ("jpeg", 50))
    for name in ("bpp", "psnr_db", "num_bytes", "decode_seconds"):
        assert mean[name] == pytest.approx(fmean(float(r[name]) for r in chosen))
    assert mean["pictures"] == 2
    assert mean["ms_ssim"] == pytest.approx(float(chosen[0]["ms_ssim"]))  # b.png is too small
    assert [(r["metric"], r["low_bpp"], r["high_bpp"]) for r in found["bd_rates"]] == [
        (metric, *window) for metric in evaluate.METRICS for window in evaluate.WINDOWS
    ]


def test_json_option_prints_the_summary(done: tuple[Path, Result]) -> None:
    written = json.loads((done[0] / "results.json").read_text())
    del written["measurements"]
    assert json.loads(done[1].stdout) == written


def test_page_shows_tables_and_plots(done: tuple[Path, Result]) -> None:
    page = (done[0] / "summary.md").read_text()
    assert "Means over 2 pictures" in page
    assert "| vqcodec | 20 |" in page and "| jpeg | 85 |" in page
    heads = "| PSNR, 0.05-0.5 bpp | PSNR, 0.05-0.25 bpp | PSNR, each picture |"
    assert f"| vqcodec against {heads}" in page
    for name, label in (("psnr", "RGB PSNR (dB)"), ("ms_ssim", "MS-SSIM (dB)")):
        assert f"]({name}.svg)" in page
        drawn = (done[0] / f"{name}.svg").read_text()
        assert all(text in drawn for text in (label, "rate (bits per pixel)", "vqcodec", "jpeg"))
        with Image.open(done[0] / f"{name}.png") as image:
            assert image.format == "PNG" and image.width > 500
    assert set(done[0].iterdir()) == set(report.targets(done[0]))


def measurement(
    name: str, setting: float, bpp: float, psnr: float, picture: str = "p"
) -> evaluate.Measurement:
    return evaluate.Measurement(picture, name, setting, 8, 8, 9, bpp, psnr, None, 0.1, 0.1)


def test_bd_rates_are_those_of_the_mean_curves() -> None:
    curves = {
        "vqcodec": [(0.06, 26.0), (0.2, 29.0), (0.4, 31.5)],
        "webp": [(0.1, 26.5), (0.6, 33.0)],
    }
    measured = [
        measurement(name, k, bpp * factor, psnr + step)  # two pictures about each point
        for name, points in curves.items()
        for k, (bpp, psnr) in enumerate(points)
        for factor, step in ((0.5, -1), (1.5, 1))
    ]
    found = evaluate.curves(measured, "psnr_db")
    assert {name: np.round(p, 9).tolist() for name, p in found.items()} == {
        name: [list(point) for point in points] for name, points in curves.items()
    }
    assert evaluate.curves(measured, "ms_ssim") == {}
    first, *_ = evaluate._bd_rates(measured)
    ours, baseline = (Curve.through(points) for points in curves.values())
    assert (first.baseline, first.metric, first.high_bpp) == ("webp", "psnr_db", 0.5)
    assert first.percent == pytest.approx(bd_rate(ours, baseline, (0.05, 0.5)))


def test_bd_rates_of_each_picture_do_not_change_with_the_allocation_between_them() -> None:
    """Here, that of two pictures, each coded at its own qualities."""
    ratios = {"a": 0.5, "b": 0.8, "never as good": 1.0}

    def measure(shift: dict[str, float]) -> evaluate.BdRate:
        measured = []
        for picture, ratio in ratios.items():
            lift = 40 if picture == "never as good" else 0
            for k, bpp in enumerate(np.geomspace(0.01, 2, 30)):
                ours = bpp * 2 ** shift[picture]
                psnr = 28 + 4 * np.log2(ours)
                measured.append(measurement("vqcodec", k, ratio * ours, psnr - lift, picture))
                measured.append(measurement("webp", k, bpp, 28 + 4 * np.log2(bpp), picture))
        return next(evaluate._bd_rates(measured))

    even = measure({"a": 0, "b": 0, "never as good": 0})
    other = measure({"a": 1, "b": -1, "never as good": 0})
    assert even.percent_each == pytest.approx((-50 - 20) / 2)
    assert other.percent_each == pytest.approx(even.percent_each)
    assert even.percent != other.percent


# What goes wrong


def test_damaged_pictures_are_told_and_left_out(quick: list[str | Path]) -> None:
    Path("in/damaged.png").write_bytes(Path("in/c.png").read_bytes()[:300])
    result = run(*quick, "-o", "out")
    assert result.exit_code == 1
    assert "error: in/damaged.png: " in result.stderr and "Traceback" not in result.stderr
    found = json.loads(Path("out/results.json").read_text())
    assert found["failed"] == ["damaged.png"] and found["pictures"] == ["c.png"]
    assert "1 could not be measured" in Path("out/summary.md").read_text()


def test_nothing_to_measure(quick: list[str | Path], tmp_path: Path) -> None:
    os.unlink("in/c.png")
    result = run(*quick)
    assert result.exit_code == 1 and "error: in: no pictures there" in result.stderr
    Path("in/c.png").write_bytes(b"no picture")
    result = run(*quick)
    assert result.exit_code == 1 and "none of its 1 pictures could be measured" in result.stderr
    assert everything() == ["in/c.png"]


def test_a_picture_that_one_codec_refuses_counts_for_none(
    quick: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (65, 64)).save("in/d.png")

    def refuse(picture: Image.Image, *rest: object, **options: object) -> bytes:
        if picture.width == 65:
            raise ImageError("too wide")
        return compress(picture, *rest, **options)  # type: ignore[arg-type]

    compress = codec.compress
    monkeypatch.setattr(codec, "compress", refuse)
    quick[quick.index("none")] = "jpeg"
    assert run(*quick).exit_code == 1
    assert "d.png" not in Path("report/results.csv").read_text()


def test_reports_are_replaced_only_when_told(quick: list[str | Path]) -> None:
    quick[0] = "."
    assert run(*quick).exit_code == 0
    before = Path("report/results.csv").read_text()
    again = run(*quick)
    assert again.exit_code == 1 and "exists already; -f replaces it" in again.stderr
    assert run(*quick, "-f").exit_code == 0  # and its plots are no pictures to measure
    after = Path("report/results.csv").read_text()
    assert [line.split(",")[:6] for line in after.splitlines()] == [
        line.split(",")[:6] for line in before.splitlines()
    ]


def test_files_appear_whole_or_not_at_all(
    quick: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqcodec.files.os.fsync", fail)
    result = run(*quick)
    assert result.exit_code == 1 and "No space left" in result.stderr
    assert everything() == ["in/c.png"]


def test_long_runs_say_how_far_they_are(
    quick: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqcodec.cli.console.INTERVAL", 0.0)
    quick[quick.index("none")] = "jpeg"
    assert "  0.0 %  c.png: vqcodec 50\n" in (lines := run(*quick).stderr)
    assert " 92.3 %  c.png: jpeg 85\n" in lines


@pytest.mark.parametrize(
    ("package", "what"),
    [("matplotlib", "plots"), ("scipy", "BD-rates"), ("pytorch_msssim", "MS-SSIM")],
)
def test_missing_packages_are_told(
    quick: list[str | Path], monkeypatch: pytest.MonkeyPatch, package: str, what: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    quick[quick.index("none")] = "jpeg"
    Image.fromarray(draw(np.random.default_rng(4), 176)).save("in/c.png")
    result = run(*quick)
    assert result.exit_code == 0, result.output
    assert f"no {what}: {package} is not installed" in result.stderr
    found = json.loads(Path("report/results.json").read_text())
    assert any(what in note for note in found["notes"])
    assert bool(found["bd_rates"]) == (package != "scipy")
    assert (found["means"][0]["ms_ssim"] is None) == (package == "pytorch_msssim")
    assert Path("report/psnr.svg").exists() == (package != "matplotlib")
    assert ("psnr.svg" in Path("report/summary.md").read_text()) == (package != "matplotlib")


def test_missing_peers_are_told(quick: list[str | Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vqcodec.evaluation.baselines.features.check", lambda feature: feature == "jpg"
    )
    quick[quick.index("none")] = "avif,jpeg"
    result = run(*quick)
    assert result.exit_code == 0 and "no avif: this Pillow lacks it" in result.stderr
    names = {mean["codec"] for mean in json.loads(Path("report/results.json").read_text())["means"]}
    assert names == {"vqcodec", "jpeg"}


@pytest.mark.parametrize(
    "wrong",
    [
        ("--qualities", "20,x"),
        ("--qualities", "101"),
        ("--qualities", "nan"),
        ("--qualities", ""),
        ("--baselines", "gif"),
        ("--baselines", ""),
    ],
)
def test_wrong_usage(quick: list[str | Path], wrong: tuple[str, str]) -> None:
    assert run(*quick, *wrong).exit_code == 2


def test_unknown_model(quick: list[str | Path]) -> None:
    result = run(*quick, "--model", "nothing")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1


# Codecs and metrics


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", [(176, 176), (5, 3)])
def test_peers_write_files_that_decode(name: str, size: tuple[int, int]) -> None:
    baseline = BASELINES[name]
    if not baseline.available:
        pytest.skip(f"this Pillow has no {name}")
    picture = Image.fromarray(draw(np.random.default_rng(5), 176)).crop((0, 0, *size))
    source = np.asarray(picture)
    files = [baseline.encode(picture, baseline.settings[k]) for k in (0, 6, -1)]
    decoded = [evaluate._read(data) for data in files]
    assert all(pixels.shape == source.shape for pixels in decoded)
    if size == (176, 176):
        values = [metrics.psnr_db(source, pixels) for pixels in decoded]
        assert values == sorted(values) and values[-1] > 28
        assert len(files[0]) < len(files[1]) < len(files[2])


def test_peers_say_what_they_cannot_write() -> None:
    with pytest.raises(ImageError, match="WEBP at 10: "):
        BASELINES["webp"].encode(Image.new("RGB", (20000, 1)), 10)


def test_metrics() -> None:
    black, white = np.zeros((8, 9, 3), np.uint8), np.full((8, 9, 3), 255, np.uint8)
    assert metrics.psnr_db(black, white) == 0 == metrics.psnr_db(white, black)
    assert metrics.psnr_db(black, black) == 100
    assert metrics.ms_ssim(black, black) is None
    assert metrics.ms_ssim_db(0.9) == pytest.approx(10)
    assert metrics.ms_ssim_db(1.0) == pytest.approx(100)
