"""The first try of a newcomer: a table, and files that agree with it."""

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vqcodec.cli.app import app
from vqcodec.cli.demo import demo
from vqcodec.training.drawings import draw


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "mine.png"
    Image.fromarray(draw(np.random.default_rng(4), 48)[:36]).save(path)
    return path


def test_a_picture_of_the_user(tmp_path: Path, picture: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = run(picture, "-o", folder)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head.split()[:2] == ["quality", "bytes"]
    fields = [row.split() for row in rows]
    assert [row[0] for row in fields] == ["20", "50", "80"]
    files = [folder / f"q{row[0]}.vqc" for row in fields]
    assert [row[-1] for row in fields] == [str(path) for path in files]
    sizes, psnr = [int(row[1]) for row in fields], [float(row[3]) for row in fields]
    assert sizes == sorted(sizes) == [path.stat().st_size for path in files]
    assert psnr == sorted(psnr)
    for path in files:
        with Image.open(path.with_suffix(".png")) as decoded:
            assert decoded.size == (48, 36)
    with Image.open(picture) as mine, Image.open(folder / "original.png") as kept:
        np.testing.assert_array_equal(mine, kept)


@pytest.mark.parametrize("name", ["original.png", "q80.png", "q20.vqc"])
def test_nothing_is_overwritten_without_force(tmp_path: Path, picture: Path, name: str) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / name).write_bytes(b"mine")
    result = run(picture, "-o", folder)
    assert result.exit_code == 1
    assert re.search(rf"{name}.*exists", result.output) and "Traceback" not in result.output
    assert [path.name for path in folder.iterdir()] == [name]  # before anything was written
    assert (folder / name).read_bytes() == b"mine"
    assert list(demo(folder, picture, qualities=(20,), force=True))[0].path == folder / "q20.vqc"
    assert (folder / "original.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_picture_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    result = run(tmp_path / "text.png", "-o", tmp_path / "demo")
    assert result.exit_code == 1 and len(result.output.splitlines()) == 2  # the head, the error
    assert not (tmp_path / "demo").exists()


def test_without_a_picture_it_takes_a_photograph_whose_licence_is_told(tmp_path: Path) -> None:
    assert list(demo(tmp_path / "demo", qualities=())) == []
    with Image.open(tmp_path / "demo" / "original.png") as photograph:
        assert (photograph.mode, photograph.size) == ("RGB", (600, 400))
    package = resources.files("vqcodec.cli")
    assert len(package.joinpath("coffee.jpg").read_bytes()) < 150_000
    assert "CC0" in package.joinpath("coffee.txt").read_text(encoding="utf-8")
