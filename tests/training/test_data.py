"""Pictures to train on, from a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import tiny_options

from vqcodec.errors import ImageError
from vqcodec.files import PICTURES
from vqcodec.options import ignore
from vqcodec.training import data, startup, train
from vqcodec.training.data import load_folder
from vqcodec.training.drawings import draw


def silent(text: str) -> None:
    return None


def fill(folder: Path, count: int, side: int = 40) -> None:
    """Pictures, each of one grey that is its number."""
    for k in range(count):
        Image.new("RGB", (side, side), (k, k, k)).save(folder / f"{k:03}.png")


def numbers(pictures: list[Any]) -> list[int]:
    return [int(picture[0, 0, 0]) for picture in pictures]


def test_every_kind_of_picture_is_read(tmp_path: Path) -> None:
    picture = Image.fromarray(draw(np.random.default_rng(0), 64))
    saved = 0
    for suffix in sorted(PICTURES):
        for name in (f"small{suffix}", f"LARGE{suffix.upper()}"):
            mode = "1" if suffix == ".pbm" else "RGB"
            try:
                picture.convert(mode).save(tmp_path / name)
            except (ValueError, KeyError, OSError):  # Pillow cannot write these, or not here
                (tmp_path / name).unlink(missing_ok=True)
            else:
                saved += 1
    assert len(load_folder(tmp_path, 16, 0, silent)) == saved
    written = {path.suffix for path in tmp_path.iterdir()}
    assert {".gif", ".jpg", ".png", ".webp", ".tiff"} <= written
    assert Image.registered_extensions().get(".avif") not in Image.SAVE or ".avif" in written


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    for k in range(3):
        (tmp_path / f"broken{k}.jpg").write_bytes(b"\xff\xd8nothing")
    Image.new("RGB", (39, 300)).save(tmp_path / "narrow.png")
    notes: list[str] = []
    assert len(load_folder(tmp_path, 40, 0, notes.append)) == 2
    assert notes == ["3 files left out: unreadable", "1 files left out: smaller than 40 pixels"]
    with pytest.raises(ImageError, match="no picture of at least 301 x 301"):
        load_folder(tmp_path, 301, 0, silent)


def test_too_many_pictures_are_a_random_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 40)
    assert numbers(load_folder(tmp_path, 40, 0, silent)) == list(range(40))
    monkeypatch.setattr(data, "CACHE_BYTES", 10 * 40 * 40 * 3)
    notes: list[str] = []
    shares: list[tuple[float, int]] = []

    def progress(share: float, count: int) -> None:
        shares.append((share, count))

    first = numbers(load_folder(tmp_path, 40, 0, notes.append, progress))
    again, other = (numbers(load_folder(tmp_path, 40, seed, silent)) for seed in (0, 1))
    assert len(first) == len(other) == 10
    assert first == again != other
    assert first == sorted(first) != list(range(10))
    assert len(notes) == 1 and notes[0].startswith("10 random ones of 40 pictures are used")
    assert [count for _, count in shares] == list(range(1, 11))
    assert shares == sorted(shares) and shares[-1][0] == 1


def test_reading_and_drawing_show_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "PROGRESS_SECONDS", 0.0)
    folder = tmp_path / "pictures" / "deeper"
    folder.mkdir(parents=True)
    fill(folder, 4, 96)
    for changes in ({"data": tmp_path / "pictures"}, {"drawings": 4}):
        records: list[dict[str, Any]] = []
        train.run(tiny_options(tmp_path, steps=0, **changes), records.append)
        told = [r for r in records if r["phase"] == "pictures"]
        assert [(r["progress"], r["pictures"]) for r in told[:-1]] == [
            (0.25, 1),
            (0.5, 2),
            (0.75, 3),
            (1.0, 4),
        ]
        assert all(r["minutes"] >= 0 for r in told[:-1])
        assert told[-1]["note"] == "4 pictures"


def test_a_run_learns_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(draw(np.random.default_rng(k), 96)).save(folder / f"{k}.png")
    # Large enough for the crops of the autoencoder and not for those of the prior.
    Image.new("RGB", (70, 300)).save(folder / "small.png")
    train.run(tiny_options(tmp_path, data=folder, steps=4), ignore)
    assert (tmp_path / "w.safetensors").exists()
