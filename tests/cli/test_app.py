import contextlib
import errno
import hashlib
import inspect
import json
import os
import secrets
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import vqcodec
from vqcodec import files
from vqcodec.bitstream import container
from vqcodec.cli import console
from vqcodec.cli.app import app
from vqcodec.cli.parameters import pixel_limit
from vqcodec.errors import CorruptChunk, ModelError, RegionError, TargetError
from vqcodec.options import Callbacks, DecodeOptions, EncodeOptions
from vqcodec.picture import reading
from vqcodec.picture.picture import Picture


class FakeCodec(types.ModuleType):
    """Stands for `vqcodec.codec`: right sizes, no model; remembers how it was called."""

    def __init__(self) -> None:
        super().__init__("vqcodec.codec")
        self.calls: list[dict[str, Any]] = []

    def compress_picture(self, picture: Any, options: EncodeOptions, callbacks: Callbacks) -> bytes:
        self.calls.append({"picture": picture, **asdict(options)})
        read = reading.read_picture(picture)
        callbacks.progress(0.5)
        callbacks.notes("conversion told")
        callbacks.found(50 if options.quality is None else options.quality)
        parts = (container.Part(7, 7), container.Part(5, 9))
        return container.pack(
            container.Container(read.width, read.height, 50, b"4 b!", 8, parts, bytes(12))
        )

    def decompress_picture(
        self, data: bytes, options: DecodeOptions, callbacks: Callbacks
    ) -> Picture:
        self.calls.append(asdict(options))
        parsed = container.parse(data, partial=options.partial)
        if not parsed.complete:
            callbacks.notes("the file was cut")
        x, y, width, height = options.region or (0, 0, parsed.width, parsed.height)
        if x + width > parsed.width or y + height > parsed.height:
            raise RegionError(f"region {x},{y},{width},{height} is not inside")
        return reading.from_pil(Image.new("RGB", (width, height), (1, 2, 3)))

    def verify(self, data: bytes, model: str | None = None, **options: Any) -> None:
        container.parse(data, max_pixels=options["max_pixels"])

    def sample(self, count: int, **options: Any) -> list[Image.Image]:
        self.calls.append(options)
        return [Image.new("RGB", options["size"], (k, 0, 0)) for k in range(count)]


@pytest.fixture(autouse=True)
def codec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCodec:
    fake = FakeCodec()
    install(monkeypatch, "codec", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def install(monkeypatch: pytest.MonkeyPatch, name: str, module: types.ModuleType) -> None:
    monkeypatch.setitem(sys.modules, f"vqcodec.{name}", module)
    package, _, leaf = f"vqcodec.{name}".rpartition(".")
    monkeypatch.setattr(import_module(package), leaf, module, raising=False)


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    # Typer before 0.16 mixes the two outputs unless told otherwise; later it knows no such option.
    apart = "mix_stderr" in inspect.signature(CliRunner).parameters
    options: Any = {"mix_stderr": False} if apart else {}
    return CliRunner(**options).invoke(app, list(arguments), input=stdin)


def shell(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "vqcodec", *arguments]
    return subprocess.run(command, env=environment(), text=True, timeout=60, **options)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(vqcodec.__file__).parents[1])}


def picture(path: str, size: tuple[int, int] = (6, 4)) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def vqc(path: str) -> str:
    picture("source-of-vqc.png")
    assert run("compress", "source-of-vqc.png", "-o", path).exit_code == 0
    os.unlink("source-of-vqc.png")
    return path


def everything() -> list[str]:
    return sorted(p.as_posix() for p in Path().rglob("*") if p.is_file())


# Arguments and results


def test_options_reach_the_codec(codec: FakeCodec) -> None:
    picture("a.png")
    line = (
        "compress a.png -q 12.5 --effort 0 --levels 3 --model m --strip --no-verify --max-pixels 77"
    )
    assert run(*line.split()).exit_code == 0
    (call,) = codec.calls
    wanted = {"quality": 12.5, "effort": 0, "levels": 3, "model": "m", "strip": True}
    assert (wanted | {"check": False, "max_pixels": 77}).items() <= call.items()
    line = "decompress a.vqc -o b.png --levels 2 --partial --model w --max-pixels 99"
    assert run(*line.split()).exit_code == 0
    wanted = {"levels": 2, "partial": True, "model": "w", "max_pixels": 99}
    assert wanted.items() <= codec.calls[1].items()


def test_effort_2_reaches_the_codec(codec: FakeCodec) -> None:
    assert run("compress", picture("a.png"), "--effort", "2").exit_code == 0
    assert codec.calls[0]["effort"] == 2 and codec.calls[0]["check"] is True


def test_tune_reaches_the_codec_and_excludes_a_model(codec: FakeCodec) -> None:
    assert run("compress", picture("a.png"), "--tune", "ssim").exit_code == 0
    assert (codec.calls[0]["tune"], codec.calls[0]["model"]) == ("ssim", None)
    refused = run("compress", "a.png", "--tune", "ssim", "--model", "m")
    assert refused.exit_code == 2 and "exclude one another" in refused.stderr
    assert run("compress", "a.png", "--tune", "vmaf").exit_code == 2
    assert len(codec.calls) == 1


def test_a_memory_limit_is_one_of_pixels(codec: FakeCodec) -> None:
    line = "--max-memory 1.8GB --max-pixels"
    assert run("compress", picture("a.png"), *line.split(), "99000000").exit_code == 0
    assert codec.calls[-1]["max_pixels"] == pixel_limit(99_000_000, 1_800_000_000) > 10_000_000
    assert run("decompress", "a.vqc", "-o", "b.png", *line.split(), "77").exit_code == 0
    assert codec.calls[-1]["max_pixels"] == 77
    refused = run("compress", "a.png", "-f", "--max-memory", "400MB")
    assert refused.exit_code == 2 and "even a small picture needs" in refused.stderr
    limits = [pixel_limit(10**9, megabytes * 10**6) for megabytes in range(482, 4000)]
    assert limits == sorted(limits) and limits[0] <= 2000  # more memory is never fewer pixels
    assert pixel_limit(10**9, 2 * 10**9) > 70_000_000


def test_a_result_larger_than_its_source_is_told(codec: FakeCodec) -> None:
    Path("a.pgm").write_bytes(b"P5 1 1 255\n\0")
    result = run("compress", "a.pgm")
    size = Path("a.vqc").stat().st_size
    assert result.exit_code == 0
    assert f"note: a.pgm: the result is larger: {size} bytes, not 12" in result.stderr
    assert "larger" not in run("compress", picture("b.png", (40, 40))).stderr


def test_regions_reach_the_codec(codec: FakeCodec) -> None:
    line = f"decompress {vqc('a.vqc')} -o b.png --region 1,0,3,2"
    assert run(*line.split()).exit_code == 0
    assert codec.calls[-1]["region"] == (1, 0, 3, 2)
    with Image.open("b.png") as image:
        assert image.size == (3, 2)
    assert run("decompress", "a.vqc", "-o", "c.png").exit_code == 0
    assert codec.calls[-1]["region"] is None


@pytest.mark.parametrize("region", ["0,0,7,4", "0,0,6,5", "6,0,1,1", "0,4,1,1"])
def test_a_region_outside_the_picture_is_one_line(region: str) -> None:
    vqc("a.vqc")
    result = run("decompress", "a.vqc", "--region", region)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("vqcodec: error: a.vqc: ") and region in result.stderr
    assert everything() == ["a.vqc"]


def test_a_region_is_asked_of_each_file() -> None:
    """One that has it is decoded, whatever becomes of the others."""
    run("compress", picture("small.png"), picture("large.png", (60, 40)))
    result = run("decompress", "small.vqc", "large.vqc", "-f", "--region", "20,10,5,5")
    assert (result.exit_code, result.stderr.count("error: ")) == (1, 1)
    with Image.open("large.png") as image:
        assert image.size == (5, 5)


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("--bpp 0.25", {"bpp": 0.25}),
        ("--psnr 31.5", {"psnr": 31.5}),
        *((f"--size {text}", {"size": 20000}) for text in ("20000", "20000B", "20k", "20kB")),
        *((f"--size {text}", {"size": 20000}) for text in ("20KB", "20.0kb", "0.02M", "0.02MB")),
        ("--size 1.5KiB", {"size": 1536}),
        ("--size 1MiB", {"size": 2**20}),
        ("--size 1.0009kB", {"size": 1000}),
    ],
)
def test_targets_reach_the_codec(codec: FakeCodec, line: str, target: dict[str, float]) -> None:
    picture("a.png")
    assert run("compress", "a.png", *line.split()).exit_code == 0
    wanted = {"quality": None, "bpp": None, "size": None, "psnr": None, **target}
    assert wanted.items() <= codec.calls[0].items()


def test_the_quality_found_is_reported(codec: FakeCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    compress = codec.compress_picture

    def search(source: Any, options: EncodeOptions, callbacks: Callbacks) -> bytes:
        return compress(source, replace(options, size=None, quality=41.37), callbacks)

    monkeypatch.setattr(codec, "compress_picture", search)
    result = run("compress", picture("a.png"), "--size", "20 kB", "--json")
    assert json.loads(result.stdout)["quality"] == 41.37


def test_a_target_out_of_reach_is_one_line(
    codec: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise TargetError("900 bytes cannot be reached: quality 0 takes 1432 bytes")

    monkeypatch.setattr(codec, "compress_picture", fail)
    result = run("compress", picture("photo.png"), "--size", "900")
    line = "photo.png: 900 bytes cannot be reached: quality 0 takes 1432 bytes"
    assert (result.exit_code, result.stderr) == (1, f"vqcodec: error: {line}\n")
    assert everything() == ["photo.png"]


def test_results_lie_beside_their_sources_by_default() -> None:
    picture("d/a.jpeg")
    assert run("compress", "d/a.jpeg").exit_code == 0
    assert run("decompress", "d/a.vqc").exit_code == 0
    assert everything() == ["d/a.jpeg", "d/a.png", "d/a.vqc"]
    with Image.open("d/a.png") as image:
        assert image.size == (6, 4)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "bmp", "ppm"])
def test_the_name_decides_the_format(suffix: str) -> None:
    assert run("decompress", vqc("a.vqc"), "-o", f"b.{suffix}").exit_code == 0
    kinds = {"jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "ppm": "PPM"}
    with Image.open(f"b.{suffix}") as image:
        assert image.format == kinds[suffix]


def test_streams(codec: FakeCodec) -> None:
    result = run("compress", "-", stdin=Path(picture("a.png")).read_bytes())
    assert result.exit_code == 0
    assert isinstance(codec.calls[0]["picture"], bytes)
    assert container.parse(result.stdout_bytes).width == 6
    result = run("decompress", "-", "-o", "-", stdin=result.stdout_bytes)
    assert result.stdout_bytes.startswith(b"\x89PNG")
    assert everything() == ["a.png"]


def test_metadata_that_a_format_has_no_place_for_is_told(
    codec: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Picture(np.zeros((2, 3, 3), np.uint8), icc=b"a profile of some kind")
    monkeypatch.setattr(codec, "decompress_picture", lambda *_, **__: kept)
    result = run("decompress", vqc("a.vqc"), "-o", "b.bmp")
    assert (result.exit_code, result.stderr.strip()) == (
        0,
        "vqcodec: note: a.vqc: BMP has no place for ICC",
    )


def test_notes_go_to_stderr_and_json_to_stdout() -> None:
    result = run("compress", picture("a.png"), picture("b.png"), "--json")
    assert "vqcodec: note: a.png: conversion told\n" in result.stderr
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["input"], first["output"], second["output"]) == ("a.png", "a.vqc", "b.vqc")
    size = os.path.getsize("a.vqc")
    assert first["num_bytes"] == size
    assert first["bpp"] == pytest.approx(8 * size / 24, abs=1e-4)
    assert (first["width"], first["height"], first["quality"]) == (6, 4, 50)
    (line,) = run("decompress", "a.vqc", "-o", "c.png", "--json").stdout.splitlines()
    assert json.loads(line)["output_bytes"] == os.path.getsize("c.png")


def test_one_input_into_a_directory() -> None:
    Path("out").mkdir()
    assert run("compress", picture("d/a.png"), "-o", "out").exit_code == 0
    assert run("compress", picture("d/b.png"), "-o", "out/").exit_code == 0
    assert {"out/a.vqc", "out/b.vqc"} <= set(everything())
    vqc("a.vqc")
    result = run("compress", "d/a.png", "-o", "a.vqc/")
    assert result.exit_code == 1
    assert "a.vqc: is not a directory" in result.stderr


def test_directories_are_mirrored() -> None:
    for name in ("in/a.png", "in/deep/er/B.JPG", "c.bmp"):
        picture(name)
    Path("in/notes.txt").write_text("no picture")
    assert run("compress", "-r", "in", "c.bmp", "-o", "out/new").exit_code == 0
    made = {"out/new/a.vqc", "out/new/deep/er/B.vqc", "out/new/c.vqc"}
    assert {name for name in everything() if name.startswith("out")} == made
    assert run("decompress", "-r", "out/new").exit_code == 0
    assert "out/new/deep/er/B.png" in everything()


# Failures


@pytest.mark.parametrize("folder", ["many.jpg", "tree.2026"])
def test_the_name_of_a_folder_says_nothing_of_the_format(folder: str) -> None:
    vqc("a.vqc")
    vqc("b.vqc")
    assert run("decompress", "a.vqc", "b.vqc", "-o", folder).exit_code == 0
    for name in ("a.png", "b.png"):
        with Image.open(Path(folder, name)) as found:
            assert found.format == "PNG"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_in_a_directory_are_not_waited_for() -> None:
    picture("in/b.png")
    os.mkfifo("in/a.png")
    result = run("compress", "-r", "in", "-o", "out")
    assert (result.exit_code, everything()) == (1, ["in/b.png", "out/b.vqc"])
    assert "in/a.png: is not a regular file" in result.stderr


def test_one_failure_does_not_stop_the_others() -> None:
    Path("bad.png").write_bytes(b"no picture")
    result = run("compress", "missing.png", "bad.png", picture("good.png"))
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert errors[0] == "vqcodec: error: missing.png: No such file or directory"
    assert errors[1].startswith("vqcodec: error: bad.png: not a picture")
    assert len(errors) == 2
    assert everything() == ["bad.png", "good.png", "good.vqc"]


def test_nothing_is_overwritten_without_force(codec: FakeCodec) -> None:
    Path("a.vqc").write_text("precious")
    result = run("compress", picture("a.png"))
    assert result.exit_code == 1
    assert result.stderr == "vqcodec: error: a.png: a.vqc: exists already; -f replaces it\n"
    assert not codec.calls  # seen before the work
    assert Path("a.vqc").read_text() == "precious"
    assert run("compress", "a.png", "-f").exit_code == 0
    assert Path("a.vqc").read_bytes().startswith(container.MAGIC)


@pytest.mark.parametrize("target", ["a.png", "./a.png", "link.png", "hard.png"])
def test_an_input_is_never_replaced(target: str) -> None:
    before = Path(picture("a.png")).read_bytes()
    os.symlink("a.png", "link.png")
    os.link("a.png", "hard.png")
    result = run("compress", "a.png", "-f", "-o", target)
    assert result.exit_code == 1
    assert "is the input itself, which would be lost" in result.stderr
    assert Path("a.png").read_bytes() == before


def test_another_input_is_never_replaced() -> None:
    picture("a.png")
    result = run("decompress", "-f", vqc("a.vqc"), "a.png", "-o", ".")
    assert result.exit_code == 1
    assert "a.vqc: ./a.png: is an input as well, which would be lost" in result.stderr
    with Image.open("a.png") as found:
        assert found.getpixel((0, 0)) == (200, 100, 50)


def test_a_file_named_like_a_stream_is_not_its_source(codec: FakeCodec) -> None:
    data = Path(picture("a.png")).read_bytes()
    Path("-").write_bytes(b"1")
    result = run("compress", "-", "-o", "b.vqc", stdin=data)
    assert (result.exit_code, "larger" in result.stderr) == (0, False)


def test_no_part_of_long_text_is_read_as_numbers(codec: FakeCodec) -> None:
    vqc("a.vqc")
    for region in ("0,0,1," + " " * 93 + "25", "0,0,1,1" + " " * 100):
        assert run("decompress", "a.vqc", "--region", region).exit_code == 2


@pytest.mark.parametrize("more", [[], ["-o", "b.png"], ["-o", "-"], ["--partial"]])
def test_a_picture_is_no_vqc_file(more: list[str], codec: FakeCodec) -> None:
    result = run("decompress", picture("a.png"), *more)
    assert result.exit_code == 1 and not codec.calls
    assert "a.png: not a .vqc file" in result.stderr and len(result.stderr.splitlines()) == 1


def test_an_output_that_is_its_input_is_told() -> None:
    vqc("a.png")
    result = run("decompress", "a.png")
    assert result.exit_code == 1
    assert "a.png: is the input itself, which would be lost; -o can name another" in result.stderr


@pytest.mark.parametrize("to", ["", "out/"])
def test_pictures_of_one_name_do_not_collide(to: str) -> None:
    where = ["-o", to] if to else []
    result = run("compress", picture("a.png"), picture("a.jpg"), *where)
    assert result.exit_code == 0
    assert f"note: a.jpg: {to}a.vqc is of another input, so: {to}a.jpg.vqc" in result.stderr
    assert Path(f"{to}a.vqc").exists() and Path(f"{to}a.jpg.vqc").exists()


def test_pictures_of_one_name_in_a_folder_do_not_collide() -> None:
    Path("in").mkdir()
    for name in ("in/a.png", "in/a.jpg", "in/b.png"):
        picture(name)
    assert run("compress", "-r", "in", "-o", "out").exit_code == 0
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["a.png.vqc", "a.vqc", "b.vqc"]
    assert run("decompress", "-r", "out", "-o", "back").exit_code == 0
    assert len(list(Path("back").iterdir())) == 3


def test_an_input_that_failed_claims_no_name() -> None:
    Path("a.jpg").write_bytes(b"no picture")
    result = run("compress", "a.jpg", picture("a.png"))
    assert result.exit_code == 1 and "error: a.jpg: " in result.stderr
    assert Path("a.vqc").exists() and not Path("a.png.vqc").exists()


def test_a_name_that_is_taken_twice_is_refused() -> None:
    for folder in ("x", "y", "z"):
        Path(folder).mkdir()
        picture(f"{folder}/a.png")
    result = run("compress", "x/a.png", "y/a.png", "z/a.png", "-o", "out")
    assert result.exit_code == 1
    assert "error: z/a.png: out/a.vqc: is the place for the result of x/a.png" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png.vqc", "a.vqc"]


@pytest.mark.parametrize(
    "command", ["compress a.png", "decompress a.vqc", "verify a.vqc", "sample"]
)
def test_a_number_of_threads_is_set_before_the_work(
    command: str, codec: FakeCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def note(threads: int) -> None:
        assert not codec.calls
        asked.append(threads)

    monkeypatch.setattr("vqcodec.cli.parameters.set_threads", note)
    picture("a.png")
    vqc("a.vqc")
    codec.calls.clear()
    more = ["-f"] if command != "verify a.vqc" else []
    assert run(*command.split(), *more, "--threads", "3").exit_code == 0 and asked == [3]
    assert run(*command.split(), *more).exit_code == 0 and asked == [3]
    assert run(*command.split(), *more, "--threads", "0").exit_code == 2


def test_any_format_reaches_the_codec(codec: FakeCodec) -> None:
    for more in ([], ["--any-format"]):
        assert run("compress", picture("a.png"), "-f", *more).exit_code == 0
        assert codec.calls[-1]["any_format"] == bool(more)


def test_an_output_without_the_suffix_is_told() -> None:
    result = run("compress", picture("a.png"), "-o", "a.bin")
    assert result.exit_code == 0 and Path("a.bin").exists()
    assert "note: a.bin: programs will not know it" in result.stderr
    assert "programs" not in run("compress", "a.png", "-o", "a.VQC").stderr
    assert "programs" not in run("compress", "a.png", "-o", "-").stderr


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_folder_is_made_for_one_file_too(command: str) -> None:
    source, made = (picture("a.png"), "a.vqc") if command == "compress" else ("a.vqc", "a.png")
    if command == "decompress":
        vqc("a.vqc")
    assert run(command, source, "-o", "new/deep/").exit_code == 0
    assert Path("new/deep", made).exists()
    assert run(command, source, "-o", "other/a.bin").exit_code != 0  # no folder was asked for


def test_directories_where_files_should_be() -> None:
    Path("a.vqc").mkdir()
    Path("file").write_text("")
    picture("a.png")
    assert "a.vqc: is a directory" in run("compress", "a.png", "-f").stderr
    assert ".: is a directory; -r" in run("compress", ".").stderr
    assert "file: is not a directory" in run("compress", "a.png", "-r", "-o", "file").stderr
    assert "nothing to do there" in run("compress", "-r", "a.vqc").stderr


def test_a_folder_that_cannot_be_read_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(folder: str, onerror: Callable[[OSError], None]) -> list[object]:
        onerror(PermissionError(13, "Permission denied", folder))
        return []

    Path("closed").mkdir()
    monkeypatch.setattr(os, "walk", walk)
    result = run("compress", "-r", "closed")
    assert (result.exit_code, result.stderr) == (1, "vqcodec: error: closed: Permission denied\n")


def test_standard_input_has_one_name() -> None:
    result = run("compress", "-", "-o", "a.vqc", stdin=b"")
    assert (result.exit_code, result.stderr) == (1, "vqcodec: error: -: the file is empty\n")


def test_sampling_takes_whole_qualities() -> None:
    result = run("sample", "-q", "30.5")
    assert (result.exit_code, everything()) == (2, [])


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left"), MemoryError()]
)
def test_a_failed_write_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    Path("a.vqc").write_text("old")
    picture("a.png")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    result = run("compress", "a.png", "-f")
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert result.stderr.splitlines()[-1].startswith("vqcodec: ")
    assert "Traceback" not in result.output
    assert everything() == ["a.png", "a.vqc"]
    assert Path("a.vqc").read_text() == "old"


def test_ctrl_c_is_one_line(codec: FakeCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(codec, "compress_picture", interrupted)
    result = run("compress", picture("a.png"), picture("b.png"))
    assert (result.exit_code, result.stderr) == (130, "vqcodec: interrupted\n")


def test_links_modes_and_devices_are_respected() -> None:
    picture("a.png")
    Path("real.vqc").write_text("old")
    os.chmod("real.vqc", 0o640)
    os.symlink("real.vqc", "link.vqc")
    assert run("compress", "a.png", "-f", "-o", "link.vqc").exit_code == 0
    assert Path("link.vqc").is_symlink()
    assert os.stat("real.vqc").st_mode & 0o777 == 0o640
    assert run("compress", "a.png", "-o", os.devnull).exit_code == 0
    assert not os.path.isfile(os.devnull)


def test_strange_names_stay_on_one_line() -> None:
    name = "a\nb\x1b[31m[red]:smile:.png"
    Path(name).write_bytes(b"no picture")
    result = run("compress", name)
    assert result.stderr.count("\n") == 1
    assert "a\\nb\\x1b[31m[red]:smile:.png: not a picture" in result.stderr
    picture("-dash.png")
    assert run("compress", "--", "-dash.png").exit_code == 0
    assert Path("-dash.vqc").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        "compress",
        "compress a.png -q 101",
        "compress a.png -q -1",
        "compress a.png -q nan",
        "compress a.png --effort 3",
        "compress a.png --levels 0",
        "compress a.png -q 50 --bpp 1",
        "compress a.png --bpp 1 --size 1kB",
        "compress a.png --size 1kB --psnr 30",
        "compress a.png --bpp 0",
        "compress a.png --bpp inf",
        *("compress a.png --bpp 1e200", "compress a.png --psnr 1e-200"),
        "compress a.png --psnr nan",
        "compress a.png --psnr -3",
        "compress a.png --size 0",
        "compress a.png --size 0.5",
        "compress a.png --size -5",
        "compress a.png --size kB",
        "compress a.png --size 20TB",
        "compress a.png --size 1e3",
        "compress a.png --size 9999999999999999",
        "compress a.png -",
        "compress a.png b.png -o -",
        "compress a.png -o - --json",
        "decompress a.vqc -o a.xyz",
        *(f"decompress a.vqc --region={r}" for r in ("1,2,3", "a,b,c,d", "0,0,0,5", "0,0,5,0")),
        *(
            f"decompress a.vqc --region={r}"
            for r in ("-1,0,5,5", "1,,2,3", "1,2,3,4,5", "0,0,1.5,2")
        ),
        *(f"decompress a.vqc --region={r}" for r in ("", "640x480", "1,2,3,", "1,2,3,4,")),
        *(f"decompress a.vqc --region={'1' * 5000},0,1,1", f"sample --dimensions {'1' * 5000}x1"),
        "sample --dimensions 10",
        "sample --dimensions 0x10",
        "sample --dimensions 99999x99999",
        "sample --temperature inf",
        "train nowhere",
        "nonsense",
    ],
)
def test_wrong_usage(arguments: str) -> None:
    picture("a.png")
    picture("b.png")
    assert run(*arguments.split()).exit_code == 2
    assert everything() == ["a.png", "b.png"]


# Other commands


def test_info_tells_of_whole_and_cut_files() -> None:
    data = Path(vqc("a.vqc")).read_bytes()
    Path("cut.vqc").write_bytes(data[:-7])
    text = run("info", "a.vqc").stdout
    for part in ("6 x 4", "complete", b"4 b!".hex(), "bytes of the parts: 7 5"):
        assert part in text
    assert "cut: 4 of 8 levels" in run("info", "cut.vqc").stdout
    Path("bad.vqc").write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    assert "damaged" in run("info", "bad.vqc").stdout
    fields = json.loads(run("info", "a.vqc", "--json").stdout)
    assert fields["part_bytes"] == [7, 5]
    assert (fields["complete"], fields["num_bytes"], fields["model"]) == (True, len(data), None)


def test_partial_decodes_cut_files() -> None:
    Path("cut.vqc").write_bytes(Path(vqc("a.vqc")).read_bytes()[:-7])
    assert run("decompress", "cut.vqc").exit_code == 1
    result = run("decompress", "cut.vqc", "--partial")
    assert result.exit_code == 0
    assert "note: cut.vqc: the file was cut" in result.stderr


def test_verify_goes_on_after_a_bad_file() -> None:
    data = bytearray(Path(vqc("a.vqc")).read_bytes())
    data[-1] ^= 1
    Path("bad.vqc").write_bytes(data)
    Path("text.vqc").write_text("text")
    result = run("verify", "bad.vqc", "text.vqc", "a.vqc")
    assert (result.exit_code, result.stdout) == (1, "a.vqc: ok\n")
    assert "error: bad.vqc: chunk" in result.stderr
    assert "error: text.vqc: not a .vqc file" in result.stderr
    assert run("verify", "a.vqc").exit_code == 0


@pytest.mark.parametrize("command", ["info", "verify"])
def test_pixel_limits_are_one_line(command: str) -> None:
    result = run(command, vqc("a.vqc"), "--max-pixels", "23")
    reason = "6 x 4 is over the limit of 23 pixels (max_pixels)"
    line = f"vqcodec: error: a.vqc: chunk 'header' at byte 12: {reason}\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)
    assert run(command, "a.vqc", "--max-pixels", "24").exit_code == 0


def test_samples_make_a_contact_sheet(codec: FakeCodec) -> None:
    arguments = "sample -n 5 --dimensions 20x10 --seed 3 --temperature 0.5 --top-p 0.9 -q 70"
    assert run(*arguments.split()).exit_code == 0
    with Image.open("samples.png") as sheet:
        assert sheet.size == (3 * 20 + 2 * 4, 2 * 10 + 4)
        pixels = [sheet.getpixel(at) for at in [(0, 0), (20, 0), (24, 0), (24, 14), (48, 14)]]
    assert pixels == [(0, 0, 0), (40, 40, 40), (1, 0, 0), (4, 0, 0), (40, 40, 40)]
    wanted = {"seed": 3, "temperature": 0.5, "top_p": 0.9, "size": (20, 10), "quality": 70}
    assert wanted.items() <= codec.calls[0].items()
    assert run(*arguments.split()).exit_code == 1  # samples.png exists


def test_train_passes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    training = types.ModuleType("vqcodec.training.train")
    seen: list[Any] = []

    class Asked(types.SimpleNamespace):
        def __init__(self, output: Path, **given: Any) -> None:
            super().__init__(output=output, **given)

        @classmethod
        def resumed(cls, output: Path, **given: Any) -> "Asked":
            return cls(output, resume=True, **given)

    training.TrainOptions = Asked  # type: ignore[attr-defined]

    def run_training(options: Any, report: Any) -> None:
        seen.append(options)
        report({"phase": "data", "note": "7 pictures"})
        for step in (100, 200):
            report({"phase": "prior", "step": step, "progress": 0.25, "psnr": [20.0, 30.0]})
        raise ModelError("diverged")

    training.run = run_training  # type: ignore[attr-defined]
    install(monkeypatch, "training.train", training)
    line = "train . --minutes 0.5 --seed 4 --prior-share 0.2 --encoder-share 0.1 -o w.safetensors"
    result = run(*line.split())
    assert result.exit_code == 1
    wanted = {"data": Path(), "minutes": 0.5, "seed": 4, "prior_share": 0.2, "encoder_share": 0.1}
    wanted |= {"output": Path("w.safetensors"), "threads": 0, "device": "auto"}
    assert vars(seen[0]) == wanted  # and nothing that was not given
    assert result.stderr.splitlines() == [
        "vqcodec: note: 7 pictures",
        " 25.0 %  prior  step 100  20.0 30.0 dB",  # and not the second, which came at once
        "vqcodec: error: diverged",
    ]
    Path("w.safetensors").write_text("")
    assert "w.safetensors: exists already" in run("train", "-o", "w.safetensors").stderr
    Path("v.safetensors.checkpoint").write_text("hours of training")
    refused = run("train", "-o", "v.safetensors")
    assert "v.safetensors.checkpoint: exists already" in refused.stderr
    assert len(seen) == 1
    run("train", "-o", "v.safetensors", "--resume", "--minutes", "3")
    assert len(seen) == 2 and vars(seen[1])["resume"] and vars(seen[1])["minutes"] == 3
    assert run("train", "-o", "v.safetensors", "--resume", "--tune", "ssim").exit_code == 2


def test_models_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    from vqcodec import models

    card = models.ModelCard("photo", "0123abcd", 12345, "p", "for photographs")
    monkeypatch.setattr(models, "cards", lambda: [card])
    assert "photo  0123abcd       12345  for photographs" in run("models").stdout
    assert json.loads(run("models", "--json").stdout)["model_id"] == "0123abcd"


def test_version() -> None:
    assert run("--version").stdout == f"vqcodec {vqcodec.__version__}\n"


# The process


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "-h"], ["info", "a.vqc"]])
def test_torch_stays_out(arguments: list[str]) -> None:
    vqc("a.vqc")
    code = (
        "import sys; from vqcodec.cli.app import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment())


def test_help_needs_no_numpy() -> None:
    code = "import sys, vqcodec.cli.app; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_a_closed_pipe_is_quiet() -> None:
    vqc("a.vqc")
    reader, writer = os.pipe()
    os.close(reader)
    result = shell("info", *["a.vqc"] * 9, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ("info a.vqc >&-", 1, "not writable"),
        ("info - <&- >/dev/null", 1, "not a .vqc file"),
        ("decompress a.vqc -o - >&-", 1, "standard output is closed"),
        ("compress a.png -o b.vqc --effort 0 >&- <&-", 0, ""),
        ("info nothing.vqc 2>&-", 1, ""),
        ("--help >/dev/full", 1, "No space left on device"),
        ("--version >/dev/full", 1, "No space left on device"),
        ("--version >&-", 1, "not writable"),
    ],
)
def test_closed_and_full_streams_are_one_line(arguments: str, status: int, text: str) -> None:
    if "/dev/full" in arguments and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    vqc("a.vqc")
    picture("a.png")
    command = f"{sys.executable} -m vqcodec {arguments}"
    result = subprocess.run(
        ["sh", "-c", command], env=environment(), text=True, stderr=subprocess.PIPE, timeout=60
    )
    assert (result.returncode, text in result.stderr) == (status, True), result.stderr
    assert result.stderr.count("\n") == (1 if text else 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line() -> None:
    vqc("a.vqc")
    with open("/dev/full", "w") as full:
        result = shell("info", "a.vqc", stdout=full, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.endswith(": No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_terminals_get_no_binary_data() -> None:
    import pty

    picture("a.png")
    ours, theirs = pty.openpty()
    result = shell("compress", "a.png", "-o", "-", stdout=theirs, stderr=subprocess.PIPE)
    assert (result.returncode, "is a terminal; -f" in result.stderr) == (1, True)
    result = shell("info", "-", stdin=theirs, capture_output=True)
    assert (result.returncode, "standard input is a terminal" in result.stderr) == (1, True)
    os.close(ours)
    os.close(theirs)


def test_a_bar_shows_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = console.Bar()
    bar.show(0.5, "a.png", patience=0)
    assert bar.progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bar:
        bar.show(0.5, "a[red].png", patience=0)
        bar.say("a line [above] :smile:")
    assert "a line [above] :smile:" in capsys.readouterr().err
    assert bar.progress is None


def test_errors_are_told_without_their_file() -> None:
    assert console.describe(CorruptChunk(b"ICC", 7, "cut"), "x") == "chunk 'ICC' at byte 7: cut"
    assert console.describe(OSError(2, "gone", "x"), "x") == "gone"
    assert console.describe(OSError(2, "gone", "y"), "x") == "y: gone"


def test_written_files_are_whole(tmp_path: Path) -> None:
    data = hashlib.sha256(b"").digest() * 1000
    files.write("new.bin", data, force=False)
    assert Path("new.bin").read_bytes() == data
    with pytest.raises(FileExistsError):
        files.write("new.bin", b"", force=False)
    assert everything() == ["new.bin"]


@pytest.mark.parametrize("force", [False, True])
def test_what_another_program_wrote_meanwhile_is_kept(
    monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def name_of_temporary(count: int) -> str:
        Path("new.bin").write_bytes(b"theirs")
        return "0" * 2 * count

    monkeypatch.setattr(secrets, "token_hex", name_of_temporary)
    with contextlib.nullcontext() if force else pytest.raises(FileExistsError, match="meanwhile"):
        files.write("new.bin", b"ours", force)
    assert Path("new.bin").read_bytes() == (b"ours" if force else b"theirs")
    assert everything() == ["new.bin"]


def test_file_systems_without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    files.write("new.bin", b"new", force=False)
    assert Path("new.bin").read_bytes() == b"new" and everything() == ["new.bin"]


@pytest.mark.parametrize(
    "code", ["raise KeyboardInterrupt", "import signal; signal.raise_signal(signal.SIGTERM)"]
)
def test_interrupted_while_libraries_load(tmp_path: Path, code: str) -> None:
    Path("typer.py").write_text(code)
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    result = subprocess.run(
        [sys.executable, "-m", "vqcodec"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")
