"""workers.py: several processes read what one reads, and nothing hangs on them."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import read_grids
from PIL import Image

from vqcodec import codec
from vqcodec.bitstream import container
from vqcodec.bitstream.tiles import Tile, split
from vqcodec.decoder import workers as readers
from vqcodec.decoder.workers import Reader, read_tiles, serve
from vqcodec.errors import CorruptChunk
from vqcodec.prior.arithmetic import FloatArithmetic, Int8Arithmetic, fastest_with_torch
from vqcodec.training.drawings import draw

TILES = 4


@pytest.fixture(scope="module")
def model(tiny_weights: dict[str, Path]) -> str:
    return str(tiny_weights["residual"])


@pytest.fixture(scope="module")
def data(model: str) -> bytes:
    """A file of four tiles; workers know nothing of tiles that tests make smaller."""
    rgb = np.tile(draw(np.random.default_rng(3), 300)[:20], (1, 13, 1))
    return codec.compress(Image.fromarray(rgb[:, :3100]), 60, effort=0, model=model)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The workers that a test starts."""
    found: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def note(*args: object, **options: object) -> subprocess.Popen[bytes]:
        found.append(start(*args, **options))  # type: ignore[call-overload]
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", note)
    return found


def damaged(data: bytes, tile: int) -> bytes:
    """With a wrong check of the last part of a tile, and all checksums around it right."""
    parsed = container.parse(data)
    parts = list(parsed.parts)
    which = len(parts) - TILES + tile
    parts[which] = replace(parts[which], check=parts[which].check ^ 1)
    return container.pack(replace(parsed, parts=tuple(parts)))


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return len(left) == len(right) and all(map(np.array_equal, left, right))


@pytest.mark.parametrize("levels", [None, 2])
def test_workers_read_what_one_process_reads(
    model: str, data: bytes, levels: int | None, processes: list[subprocess.Popen[bytes]]
) -> None:
    alone = read_grids(data, model=model, levels=levels).grids
    assert not processes
    shares: list[float] = []
    found = read_grids(data, model=model, levels=levels, workers=3, progress=shares.append)
    assert same(found.grids, alone) and len(processes) == 2
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.slow
def test_workers_with_many_tiles_use_int8(
    model: str, data: bytes, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one process does."""
    told: list[bool] = []

    class Worker(readers._Worker):
        def __init__(self, reader: Reader, int8: bool) -> None:
            told.append(int8)
            super().__init__(reader, int8)

    monkeypatch.setattr(readers, "_Worker", Worker)
    monkeypatch.setattr(readers, "MANY", many)
    found = read_grids(data, model=model, workers=3, arithmetic=fastest_with_torch).grids
    suits = isinstance(fastest_with_torch(), Int8Arithmetic)
    assert told == [suits and many == 1] * 2
    assert same(found, read_grids(data, model=model).grids)
    told.clear()
    read_grids(data, model=model, workers=3, arithmetic=FloatArithmetic)
    assert told == [False] * 2


@pytest.mark.parametrize("int8", [False, True])
def test_a_worker_answers_tile_by_tile(model: str, data: bytes, int8: bool) -> None:
    start = {"weights": model, "bytes": len(data), "pixels": 10**6, "count": 1, "partial": False}
    head = json.dumps({**start, "int8": int8}).encode() + b"\n"
    sink = io.BytesIO()
    serve(io.BytesIO(head + data + b"2\n0\n"), sink)
    grid = read_grids(data, model=model, levels=1).grids[0][..., 0]
    tiles = split(20, 3100, 16)
    assert len(tiles) == TILES
    want = [grid[:, tiles[k].left // 16 : tiles[k].right // 16].tobytes() for k in (2, 0)]
    line = b'{"levels": 1, "sound": true}\n'
    assert sink.getvalue() == line + want[0] + line + want[1]


@pytest.mark.slow
def test_every_worker_may_fail(model: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = read_grids(data, model=model).grids
    for program in ("raise SystemExit(1)", "print('{}')", "print('[]')", "print(7)"):
        monkeypatch.setattr(readers, "PROGRAM", program)
        assert same(read_grids(data, model=model, workers=4).grids, alone)
    for executable in ("", None, "/nowhere/python", os.devnull):
        monkeypatch.setattr(sys, "executable", executable)
        assert same(read_grids(data, model=model, workers=4).grids, alone)


def test_a_worker_may_be_killed_at_work(
    model: str, data: bytes, processes: list[subprocess.Popen[bytes]]
) -> None:
    def kill(share: float) -> None:
        if share == 0.5:  # both have begun
            processes[0].kill()

    found = read_grids(data, model=model, workers=3, progress=kill).grids
    assert same(found, read_grids(data, model=model).grids)


def test_damage_is_told_as_by_one_process(
    model: str, data: bytes, processes: list[subprocess.Popen[bytes]]
) -> None:
    broken = damaged(data, 2)
    with pytest.raises(CorruptChunk, match="tile 2 do not match"):
        read_grids(broken, model=model, workers=3)
    alone = read_grids(broken, model=model, partial=True)
    found = read_grids(broken, model=model, partial=True, workers=3)
    assert found.damaged == alone.damaged == 1 and same(found.grids, alone.grids)
    assert len(processes) == 4 and all(process.poll() is not None for process in processes)


def test_what_processes_do_not_read_is_read_one_by_one(
    model: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As threads of one process would be in each other's way."""
    at_work, most, read = 0, 0, Reader.read

    def note(self: Reader, tile: Tile) -> readers.Found:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        found = read(self, tile)
        at_work -= 1
        return found

    alone = read_grids(data, model=model).grids
    monkeypatch.setattr(Reader, "read", note)
    monkeypatch.setattr(readers, "PROGRAM", "raise SystemExit(1)")
    assert same(read_grids(data, model=model, workers=2).grids, alone) and most == 1


def test_a_file_that_fails_at_once_leaves_no_process(
    model: str, data: bytes, processes: list[subprocess.Popen[bytes]]
) -> None:
    with pytest.raises(CorruptChunk, match="tile 0 do not match"):
        read_grids(damaged(data, 0), model=model, workers=4)
    assert len(processes) == 3 and all(process.poll() is not None for process in processes)


def test_none_takes_the_processors(
    model: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Reader] = []

    def refuse(reader: Reader, int8: bool) -> None:
        started.append(reader)
        raise OSError

    monkeypatch.setattr(readers, "_Worker", refuse)
    for processors, workers in ((1, 0), (2, 1), (64, 1)):  # the first refusal is the last try
        started.clear()
        monkeypatch.setattr(readers, "_processors", lambda count=processors: count)
        read_grids(data, model=model, workers=None)
        assert len(started) == workers


def test_closed_early_it_leaves_no_process(
    model: str, data: bytes, processes: list[subprocess.Popen[bytes]]
) -> None:
    alone = read_grids(data, model=model)
    reader = Reader(data, alone.container, alone.model, 2, False)
    results = read_tiles(reader, split(20, 3100, 16), 4)
    next(results), next(results)
    assert len(processes) == 3
    results.close()
    assert all(process.poll() is not None for process in processes)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_end_with_the_process_that_started_them(
    model: str, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.vqc"
    path.write_bytes(data)
    code = f"""
import sys, time
from vqcodec.decoder.grids import read_grids
from vqcodec.options import DecodeOptions
def wait(share):
    if share == 0.5:
        print("begun", flush=True)
        time.sleep(60)
options = DecodeOptions(model={model!r}, workers=3)
read_grids(open({str(path)!r}, "rb").read(), options, progress=wait)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"begun\n"
        children = Path(f"/proc/{parent.pid}/task").glob("*/children")
        workers = [int(pid) for path in children for pid in path.read_text().split()]
        assert len(workers) == 2
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)
