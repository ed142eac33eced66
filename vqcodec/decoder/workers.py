"""Tiles of a file entropy-decoded one after the other, or by several processes at once.

Tiles are independent, so they can be decoded in parallel; but the steps of a scan are too short for
Python's threads (docs/experiments.md, 20). A worker is a process that gets a file once, then
numbers of tiles, and answers with their grids. Workers are optional: a tile that one does not
answer, for whatever reason, is decoded by this process, and errors are raised here only.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Lock
from typing import IO

import numpy as np

from vqcodec import models
from vqcodec.bitstream import container
from vqcodec.bitstream.container import Container
from vqcodec.bitstream.tiles import Tile, split
from vqcodec.errors import CorruptChunk
from vqcodec.networks.model import Model
from vqcodec.prior.arithmetic import Arithmetic, FloatArithmetic, Int8Arithmetic, fastest_with_torch
from vqcodec.prior.range_coder import IndexGrid, decode_grids

__all__ = ["Reader", "read_tiles", "serve"]

Found = tuple[list[IndexGrid], bool]

MOST = 4  # processes by default: each besides this one takes 180 MB, and 60 more with torch
MANY = 3  # tiles per process, from which on it pays that workers load torch for its int8 products

# The module path is handed over, so that a worker never runs another vqcodec, nor anything in the
# folder that it is started from.
PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from vqcodec.decoder.workers import serve
serve(sys.stdin.buffer, sys.stdout.buffer)
"""


@dataclass(frozen=True)
class Reader:
    """What it takes to read the tiles of a file.

    count: how many levels, from the first.
    partial: of a damaged tile take the levels before the damage.
    arithmetic: says what the prior is calculated in; in other processes float32, unless there are
        many tiles.
    """

    data: bytes
    parsed: Container
    model: Model
    count: int
    partial: bool
    arithmetic: Callable[[], Arithmetic] = FloatArithmetic

    def read(self, tile: Tile) -> Found:
        """The first levels of a tile, as many of `count` as arrived, and whether all are sound.

        Raises:
            CorruptChunk: the tile is damaged, and `partial` is not set.
        """
        parsed, step = self.parsed, container.LEVELS_PER_PART
        parts, sound = parsed.tile_parts(tile.number), list[IndexGrid]()

        def check(grids: list[IndexGrid]) -> None:
            part = (len(grids) - 1) // step
            if container.checksum_indices(grids[part * step :]) != parts[part].check:
                what = f"levels from {part * step} on of tile {tile.number}"
                raise CorruptChunk(b"payload", 0, f"{what} do not match their checksum")
            sound[:] = grids

        # Only whole parts can be read.
        streams = parsed.tile_streams(tile.number)[: -(-self.count // step)]
        if not streams:
            return [], True
        shapes = self.shapes(tile)[: min(len(streams) * step, parsed.level_count)]
        # Part by part, so that a forged file is refused long before its last level.
        try:
            prior = self.model.prior_in(self.arithmetic())
            decode_grids(prior, streams, shapes, parsed.quality, step, check)
        except CorruptChunk:
            if not self.partial:
                raise
            return sound[: self.count], False
        return sound[: self.count], True

    def shapes(self, tile: Tile) -> list[tuple[int, int]]:
        """(h, w) of all grids of a tile."""
        return self.model.config.grid_shapes(tile.bottom - tile.top, tile.right - tile.left)


def read_tiles(
    reader: Reader, tiles: Sequence[Tile], workers: int | None
) -> Generator[Found, None, None]:
    """What `Reader.read` gives for each tile, in order. Close it, if it is not taken to its end.

    The first tile is read here, while processes start for the others.

    Args:
        workers: so many read at once at most, this process being one of them; None: as many as
            there are processors, up to `MOST`.
    Raises:
        CorruptChunk: as `Reader.read`.
    """
    if workers is None:
        workers = min(_processors(), MOST)
    if (workers := min(workers, len(tiles))) < 2:
        yield from map(reader.read, tiles)
        return
    # Asked only if there are many, as it may load torch, which others should not wait for.
    int8 = len(tiles) >= MANY * workers and isinstance(reader.arithmetic(), Int8Arithmetic)
    idle: SimpleQueue[_Worker] = SimpleQueue()
    started: list[_Worker] = []
    ahead: deque[Future[Found]] = deque()
    over, here = Event(), Lock()

    def read(tile: Tile) -> Found:
        # One thread more than there are processes finds none, and those that failed stay away.
        with contextlib.suppress(Empty):
            worker = idle.get_nowait()
            if (found := worker.read(tile)) is not None:
                idle.put(worker)
                return found
        with here:
            return ([], False) if over.is_set() else reader.read(tile)

    pool = ThreadPoolExecutor(workers)
    try:
        for _ in range(workers - 1):
            try:
                started.append(_Worker(reader, int8))
            except OSError:  # no process can be had
                break
            idle.put(started[-1])
        rest = iter(tiles[1:])
        ahead.extend(pool.submit(read, tile) for tile in itertools.islice(rest, len(started)))
        with here:
            first = reader.read(tiles[0])
        yield first
        ahead.extend(pool.submit(read, tile) for tile in itertools.islice(rest, 2 * workers))
        for tile in rest:
            ahead.append(pool.submit(read, tile))
            yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        over.set()
        for worker in started:  # first, so that no thread waits for an answer
            worker.stop()
        pool.shutdown(cancel_futures=True)


class _Worker:
    """A process that reads tiles."""

    def __init__(self, reader: Reader, int8: bool) -> None:
        """`int8`: with torch, whose products are faster, else in float32.

        Raises:
            OSError: the process cannot be started.
        """
        self.reader, self.int8, self.begun = reader, int8, False
        path = json.dumps([str(folder) for folder in sys.path])
        self.process = subprocess.Popen(
            [sys.executable or "", "-I", "-c", PROGRAM, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def read(self, tile: Tile) -> Found | None:
        """As `Reader.read`; None if there is no answer."""
        to, back = self.process.stdin, self.process.stdout
        assert to is not None and back is not None
        try:
            if not self.begun:
                self._begin(to)
            to.write(b"%d\n" % tile.number)
            to.flush()
            answer = json.loads(back.readline())
            shapes = self.reader.shapes(tile)[: answer["levels"]]
            levels = zip(shapes, self.reader.model.config.levels, strict=False)
            grids = [_receive(back, *shape, level.slices) for shape, level in levels]
            return grids, answer["sound"]
        except (OSError, ValueError, TypeError, KeyError):  # of a process that ended: no JSON
            self.stop()
            return None

    def _begin(self, to: IO[bytes]) -> None:
        reader = self.reader
        start = {
            "weights": str(reader.model.path),
            "bytes": len(reader.data),
            "pixels": reader.parsed.width * reader.parsed.height,
            "count": reader.count,
            "partial": reader.partial,
            "int8": self.int8,
        }
        to.write(json.dumps(start).encode() + b"\n" + reader.data)
        self.begun = True

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was not sent has no one to go to
                assert pipe is not None
                pipe.close()


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """What a worker does: read a file, then tiles, until there are no more numbers of tiles.

    Whatever goes wrong ends it; the process that started it sees that.
    """
    start = json.loads(source.readline())
    data = source.read(start["bytes"])
    parsed = container.parse(data, partial=start["partial"], max_pixels=start["pixels"])
    model = models.load(start["weights"])
    arithmetic = fastest_with_torch if start["int8"] else FloatArithmetic
    reader = Reader(data, parsed, model, start["count"], start["partial"], arithmetic)
    tiles = split(parsed.height, parsed.width, model.config.strides[0])
    while number := source.readline():
        grids, sound = reader.read(tiles[int(number)])
        sink.write(json.dumps({"levels": len(grids), "sound": sound}).encode() + b"\n")
        for grid in grids:
            sink.write(grid.astype(np.uint16).tobytes())
        sink.flush()


def _receive(source: IO[bytes], *shape: int) -> IndexGrid:
    count = int(np.prod(shape))
    values = np.frombuffer(source.read(2 * count), np.uint16)
    return values.reshape(shape).astype(np.int32)  # ValueError where the process ended


def _processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
