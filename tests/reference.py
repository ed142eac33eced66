"""A second decoder, from file to index grids: slow, and written from docs/format.md alone.

It shares no line with the package, so that a file which both decode to the same grids shows the
page to be enough. "Section" means a section of that page. Every refusal is a `ValueError`.
"""

import json
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Ints = NDArray[np.int64]
Part = tuple[int, int]  # an entry of the part table, section 3.1: size, check

TOTAL = 2**24  # the sum of all frequencies, section 4
TILE = 1024  # pixels, section 2
LEVELS_PER_PART = 4  # section 2
MAX_PIXELS = 2**22  # this decoder's own choice, section 6
AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
FIRST = [(0, -1), (0, -2), (-1, -2), (-1, -1), (-1, 0), (-1, 1), (-2, -1), (-2, 0), (-2, 1)]
GATE = [(0, 0), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
CHUNKS = {1: b"ALPHA", 2: b"ICC", 3: b"EXIF", 4: b"XMP"}  # by bit of `flags`


def refuse_if(fault: bool, reason: str) -> None:
    if fault:
        raise ValueError(reason)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Reader:
    """The bytes of a file, from first to last."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def take(self, size: int) -> bytes:
        refuse_if(self.offset + size > len(self.data), "the file is cut")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def varint(self) -> int:
        """Section 1: groups of 7 bits, lowest first, in the shortest form."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.number(1)
            value |= (byte & 127) << shift
            if byte < 128:
                refuse_if(value >= 2**32 or (byte == 0 and shift > 0), "varint out of range")
                return value
        raise ValueError("varint of more than 5 bytes")

    def verify(self, start: int, name: bytes = b"") -> None:
        """Read a CRC-32, the one of `name` and all bytes from `start` up to here."""
        want = crc32(name + self.data[start : self.offset])
        refuse_if(self.number(4) != want, f"crc of the bytes from {start}")


@dataclass(frozen=True)
class File:
    """A parsed file; `parts` and `streams` have one entry per tile."""

    model_id: bytes
    width: int
    height: int
    quality: int
    level_count: int
    header_size: int  # in bytes
    parts: list[list[Part]]
    streams: list[list[bytes]]


def parse(data: bytes) -> File:
    """All of the file that needs no model: sections 2, 3 and 6."""
    reader = Reader(data)
    refuse_if(reader.take(4) != b"\xf6VQC", "magic")
    refuse_if(reader.number(1) > 0, "version")
    flags = reader.number(1)
    refuse_if(flags >= 32, "flags")
    model_id = reader.take(4)
    width, height = reader.varint(), reader.varint()
    sides = range(1, 2**24 + 1)
    refuse_if(width not in sides or height not in sides or width * height > MAX_PIXELS, "size")
    quality, level_count = reader.number(1), reader.number(1)
    refuse_if(quality > 100 or not 1 <= level_count <= 64, "quality or level_count")

    parts: list[list[Part]] = [[] for _ in range(ceil_div(height, TILE) * ceil_div(width, TILE))]
    most = 1048576 * ceil_div(width, 256) * ceil_div(height, 256)
    for tile in parts * ceil_div(level_count, LEVELS_PER_PART):
        tile.append((reader.varint(), reader.number(2)))
        refuse_if(not 1 <= tile[-1][0] <= most, "size of a part")
    reader.verify(0)
    header_size = reader.offset

    streams: list[list[bytes]] = [[] for _ in parts]
    for p in range(len(parts[0])):
        for tile, found in zip(parts, streams, strict=True):
            found.append(reader.take(tile[p][0]))
    reader.verify(header_size)

    for bit, name in CHUNKS.items():
        if flags >> bit & 1:
            start, size = reader.offset, reader.varint()
            limit = min(2 * width * height + 65536, 2**32 - 1) if bit == 1 else 2**26
            refuse_if(size > limit, "size of a chunk")
            reader.take(size)
            reader.verify(start, name)
    refuse_if(reader.offset < len(data), "bytes behind the end")
    return File(model_id, width, height, quality, level_count, header_size, parts, streams)


class RangeDecoder:
    """Section 4: the indices from the stream of one part."""

    def __init__(self, stream: bytes) -> None:
        self.stream, self.words_read = stream, 0
        self.low, self.range = 0, 2**64 - 1
        self.point = self.next_word() << 32 | self.next_word()

    def next_word(self) -> int:
        start = 4 * self.words_read
        self.words_read += 1
        return int.from_bytes(self.stream[start : start + 4].ljust(4, b"\0"), "big")

    def finish(self) -> None:
        read = 4 * self.words_read  # 4 m + 8
        refuse_if(not read - 8 < len(self.stream) <= read, "bytes of a stream")

    def decode(self, frequencies: Ints) -> int:
        ends = np.cumsum(frequencies)
        scale = self.range // TOTAL
        target = (self.point - self.low) % 2**64 // scale
        refuse_if(target >= TOTAL, "a target beyond the frequencies")
        index = int(np.searchsorted(ends, target, side="right"))
        self.low = (self.low + scale * int(ends[index] - frequencies[index])) % 2**64
        self.range = scale * int(frequencies[index])
        if self.range < 2**32:
            self.low = self.low * 2**32 % 2**64
            self.range *= 2**32
            self.point = self.point * 2**32 % 2**64 + self.next_word()
        return index


def rounded(x: Ints, shift: Ints | int) -> Ints:
    """R(x, s)."""
    return (x + (1 << shift - 1)) >> shift


def clamp(x: Ints) -> Ints:
    return np.clip(x, -1016, 1016)


def narrow(x: Ints) -> Ints:
    return rounded(x, 3)


def patch(padded: Ints, i: int, j: int, taps: Sequence[tuple[int, int]]) -> Ints:
    """What the taps at (i, j) see of a grid with 2 zero vectors around it, as one vector."""
    return np.concatenate([padded[i + 2 + dy, j + 2 + dx] for dy, dx in taps])


class Prior:
    """Section 5: the tensors of a weights file, and the prior that they define."""

    def __init__(self, weights: Path) -> None:
        with safe_open(weights, "np") as file:
            config = json.loads(file.metadata()["config"])
            names = [name for name in file.keys() if name.startswith("prior.")]  # noqa: SIM118
            self.tensors = {name[6:]: file.get_tensor(name).astype(np.int64) for name in names}
        self.strides: list[int] = [level["stride"] for level in config["levels"]]
        self.slices: list[int] = [level["slices"] for level in config["levels"]]
        self.layers: int = config["prior"]["layers"]
        sizes = [level["codebook_size"] for level in config["levels"]]
        refuse_if(not all(2 <= size <= 4096 for size in sizes), "codebook size")
        self.check_bounds()

    def matrix(self, name: str) -> tuple[Ints, Ints]:
        """A matrix with its taps and inputs in rows, and the exponents of its columns."""
        weight = self.tensors[f"{name}.weight"]
        return weight.reshape(-1, weight.shape[-1]), self.tensors[f"{name}.exponent"]

    def check_bounds(self) -> None:
        """*Bounds*, with the offsets in sixteenths."""
        for name in [key[:-7] for key in self.tensors if key.endswith(".weight")]:
            weight, e = self.matrix(name)
            refuse_if(e.min() < 4 or e.max() > 15, f"exponents of {name}")
            bias = self.tensors.get(f"{name}.bias", np.zeros(weight.shape[1], np.int64))
            largest_bias = np.abs(bias).reshape(-1, weight.shape[1]).max(0)
            stride, kind = name.split(".")[0], name.split(".")[-1]
            offset = {"gate": 520}.get(kind, 8)
            if kind.startswith("context"):
                levels = [k for k, s in enumerate(self.strides) if str(s) == stride]
                conditions = [self.tensors[f"level{k}.condition"] for k in levels]
                offset += max(int(np.abs(condition).max()) for condition in conditions)
            largest_input = 128 if kind == "residual" else 127
            sums = np.abs(weight).sum(0) * largest_input + largest_bias + (offset << e - 4)
            refuse_if(bool((sums >= 2**24).any()), f"weights of {name}")
        embeddings = [self.tensors[f"level{k}.embedding"] for k in range(len(self.strides))]
        refuse_if(any(bool((np.abs(e) > 1016).any()) for e in embeddings), "embedding")
        table = self.tensors["table"]
        refuse_if(table[0] != 2**20 or table.min() < 0 or table.max() > 2**20, "table")

    def embed(self, level: int, indices: Ints) -> Ints:
        """E[z] for (..., S) indices."""
        embedding = self.tensors[f"level{level}.embedding"]
        summed: Ints = embedding[np.arange(self.slices[level]), indices].sum(-2)
        return clamp(summed)

    def add_level(self, level: int, total: Ints, grid: Ints) -> Ints:
        """*Sum over coarser levels*: total for the level that comes after `level`."""
        total = total + self.embed(level, grid)
        stride, finer = self.strides[level : level + 2]
        if finer == stride:
            return total
        f, (height, width, _) = stride // finer, total.shape
        weight, e = self.matrix(f"{stride}.up")
        blocks = rounded(narrow(clamp(total)) @ weight, e - 3).reshape(height, width, f, f, -1)
        finer_total: Ints = blocks.swapaxes(1, 2).reshape(f * height, f * width, -1)
        return finer_total

    def context(self, level: int, quality: int, total: Ints, i: int, j: int) -> Ints:
        """*Context* at a position, given the total around it."""
        height, width, _ = total.shape
        seen = np.pad(narrow(clamp(total)), ((2, 2), (2, 2), (0, 0)))
        c1, c2 = self.tensors[f"level{level}.condition"][quality]
        around = []
        for dy, dx in AROUND:
            inside = 0 <= i + dy < height and 0 <= j + dx < width
            sums, e = self.context_sums(level, 1, c1, patch(seen, i + dy, j + dx, AROUND))
            around.append(np.clip(rounded(sums, e), 0, 127) * inside)
        sums, e = self.context_sums(level, 2, c2, np.concatenate(around))
        return clamp(rounded(sums, e - 3))

    def context_sums(self, level: int, number: int, c: Ints, seen: Ints) -> tuple[Ints, Ints]:
        weight, e = self.matrix(f"{self.strides[level]}.context{number}")
        return seen @ weight + (c << e - 4), e

    def causal_layer(self, name: str, seen: Ints, h: Ints) -> Ints:
        """*Causal layers*, one n at one position; `seen` is h at the taps, then ctx."""
        weight, e = self.matrix(f"{name}.gate")
        sums = narrow(seen) @ weight + self.tensors[f"{name}.gate.bias"]
        (x, y), (ex, ey) = np.split(sums, 2), np.split(e, 2)
        a = np.clip(rounded(x, ex - 3), -128, 127)
        g = np.clip(rounded(y, ey - 1) + 64, 0, 128)
        weight, e = self.matrix(f"{name}.residual")
        return clamp(h + rounded((a * g >> 7) @ weight, e))

    def frequencies(self, level: int, quality: int, h: Ints, w: Ints) -> Iterator[Ints]:
        """*Frequencies* of each slice of a position, with the corrections w (S, K)."""
        weight, e = self.matrix(f"level{level}.output")
        bias = self.tensors[f"level{level}.output.bias"][16 * quality // 101]
        for logits in rounded(narrow(h) @ weight + bias, e - 2).reshape(w.shape) + (w >> 4):
            r = self.tensors["table"][np.minimum(logits.max() - logits, 1023)]
            frequencies = 1 + r * (TOTAL - len(r)) // r.sum()
            frequencies[np.argmax(logits)] += TOTAL - frequencies.sum()
            yield frequencies


class LevelDecoder:
    """One level of a tile, wavefront by wavefront."""

    def __init__(self, prior: Prior, level: int, quality: int, total: Ints) -> None:
        self.prior, self.level, self.quality, self.total = prior, level, quality, total
        height, width, channels = total.shape
        self.grid = np.zeros((height, width, prior.slices[level]), np.int64)
        # E[z], then h after the first layer and after each layer n
        shape = (prior.layers + 2, height + 4, width + 4, channels)
        self.embedded, *self.hidden = np.zeros(shape, np.int64)
        self.wavefronts = width + 2 * (height - 1)
        # Section 5, *Adaptive counts*: w and e; n and g of the wavefront that is being decoded
        columns = prior.tensors[f"level{level}.output.weight"].shape[1]
        self.w, self.e, self.n, self.g = np.zeros(
            (4, prior.slices[level], columns // prior.slices[level]), np.int64
        )

    def wavefront(self, t: int, decoder: RangeDecoder) -> None:
        """Decode the positions with j + 2 i = t, if there are any."""
        height, width, _ = self.grid.shape
        for i in range(height):
            if 0 <= t - 2 * i < width:
                self.position(i, t - 2 * i, decoder)
        steps = 2048 * (self.n - self.g) // (self.n + self.g + 2 * self.e + 6 * TOTAL)
        self.w = np.clip(self.w + steps, -16384, 16384)
        self.e = np.minimum(self.e + self.g, 64 * TOTAL)
        self.n[:], self.g[:] = 0, 0

    def position(self, i: int, j: int, decoder: RangeDecoder) -> None:
        prior, name = self.prior, self.prior.strides[self.level]
        ctx = prior.context(self.level, self.quality, self.total, i, j)
        weight, e = prior.matrix(f"{name}.first")
        h = clamp(ctx + rounded(narrow(patch(self.embedded, i, j, FIRST)) @ weight, e - 3))
        self.hidden[0][i + 2, j + 2] = h
        for n in range(prior.layers):
            seen = np.concatenate([patch(self.hidden[n], i, j, GATE), ctx])
            h = prior.causal_layer(f"{name}.{n}", seen, h)
            self.hidden[n + 1][i + 2, j + 2] = h
        for s, frequencies in enumerate(prior.frequencies(self.level, self.quality, h, self.w)):
            index = decoder.decode(frequencies)
            self.grid[i, j, s] = index
            self.n[s, index] += TOTAL
            self.g[s] += frequencies
        self.embedded[i + 2, j + 2] = prior.embed(self.level, self.grid[i, j])


def decode_tile(
    prior: Prior,
    file: File,
    parts: Sequence[Part],
    streams: Sequence[bytes],
    shape: tuple[int, int],
) -> list[Ints]:
    """The grids of a tile with `shape` positions at the coarsest stride, section 4."""
    grids = list[Ints]()
    base = np.zeros((*shape, prior.tensors["level0.condition"].shape[-1]), np.int64)
    strides = prior.strides[: file.level_count]
    decoders = [RangeDecoder(stream) for stream in streams]
    for stride in sorted(set(strides), reverse=True):
        levels = [k for k, s in enumerate(strides) if s == stride]
        running = [LevelDecoder(prior, level, file.quality, base) for level in levels]
        for step in range(running[0].wavefronts + 7 * (len(levels) - 1)):
            for k, one in enumerate(running):
                one.wavefront(step - 7 * k, decoders[one.level // LEVELS_PER_PART])
            for one, finer in zip(running, running[1:], strict=False):
                finer.total = prior.add_level(one.level, one.total, one.grid)
        grids += [one.grid for one in running]
        if len(grids) < file.level_count:
            base = prior.add_level(levels[-1], running[-1].total, grids[-1])
    for first, decoder, (_, check) in zip(
        range(0, file.level_count, LEVELS_PER_PART), decoders, parts, strict=True
    ):
        decoder.finish()
        part = grids[first : first + LEVELS_PER_PART]
        indices = b"".join(grid.astype("<u2").tobytes() for grid in part)
        refuse_if(crc_hqx(indices, 0xFFFF) != check, "check of a part")
    return grids


def tile_lengths(length: int, stride: int) -> list[int]:
    """Section 2: the rows, or the columns, of each tile at the coarsest stride."""
    n, length = ceil_div(length, TILE), ceil_div(length, stride)
    return [length * (k + 1) // n - length * k // n for k in range(n)]


def decode(data: bytes, weights: Path) -> list[Ints]:
    """The (h, w, S) index grids of a whole picture, coarse first; section 7 says what it refuses.

    Raises:
        ValueError: the file or the weights must be refused. ALPHA and metadata are not looked into.
    """
    file = parse(data)
    digest = sha256(weights.read_bytes()).digest()
    refuse_if(file.model_id != digest[:4], "other weights than the file names")
    prior = Prior(weights)
    refuse_if(file.level_count > len(prior.strides), "more levels than the model has")
    coarsest = prior.strides[0]
    rows, columns = tile_lengths(file.height, coarsest), tile_lengths(file.width, coarsest)
    shapes = [(r, c) for r in rows for c in columns]
    tiles = [
        decode_tile(prior, file, parts, words, shape)
        for parts, words, shape in zip(file.parts, file.streams, shapes, strict=True)
    ]
    bands = [tiles[k : k + len(columns)] for k in range(0, len(tiles), len(columns))]
    return [
        np.concatenate([np.concatenate([tile[k] for tile in band], 1) for band in bands])
        for k in range(file.level_count)
    ]
