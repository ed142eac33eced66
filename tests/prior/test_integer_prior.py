"""The frozen prior against a slow reference written from docs/format.md, section 5."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import cross_entropy_bits
from numpy.typing import NDArray

from vqcodec.config import Level, ModelConfig, PriorConfig
from vqcodec.errors import ModelError
from vqcodec.prior import wavefront_scan
from vqcodec.prior.arithmetic import Arithmetic, FloatArithmetic, Int8Arithmetic, int8_is_right
from vqcodec.prior.freeze import freeze
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.network import Prior
from vqcodec.prior.wavefront_scan import Step, scan, scan_known

CONFIG = ModelConfig(
    name="tiny",
    levels=(
        *(Level(16, 7), Level(16, 7, slices=2)),
        *(Level(8, 2), Level(8, 2)),
        Level(4, 4, slices=3),
    ),
    latent_dims=(6, 5, 3),
    prior=PriorConfig(channels=(5, 4, 3), layers=2),
)
SHAPES = [(1, 1), (1, 6), (5, 1), (3, 4), (5, 3)]

Tensors = dict[str, NDArray[Any]]


def tiny_tensors(seed: int, gain: float) -> Tensors:
    """Weights of a random prior; a high gain drives activations into their clamps."""
    torch.manual_seed(seed)
    model = Prior(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain).add_(0.05 * torch.randn_like(parameter))
        for index, level in enumerate(CONFIG.levels):
            if level.slices > 1:  # sums over the slices pass the clamp too
                model.tables(index).embedding.mul_(2 * level.slices)
    return freeze(model)


def shapes_from(coarse: tuple[int, int]) -> list[tuple[int, int]]:
    factors = [16 // level.stride for level in CONFIG.levels]
    return [(coarse[0] * factor, coarse[1] * factor) for factor in factors]


def random_grids(coarse: tuple[int, int], batch: int, seed: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, level.codebook_size, (batch, *shape, level.slices))
        for level, shape in zip(CONFIG.levels, shapes_from(coarse), strict=True)
    ]


def wavefronts(step: Step, batch: int) -> Iterator[tuple[int, Any, NDArray[np.float64]]]:
    """Level, places and frequencies (batch, n, S, K) of each wavefront."""
    rows = step.frequencies
    for wavefront in step.wavefronts:
        shape = (len(wavefront.places), batch, -1, rows.shape[1])
        yield (
            wavefront.level,
            wavefront.places,
            rows[wavefront.indices].reshape(shape).swapaxes(0, 1),
        )


def ordered(step: Step, grids: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Of grids (batch, h, w, S), the indices of a step."""
    flat = [grid.reshape(len(grid), -1, grid.shape[3]).swapaxes(0, 1) for grid in grids]
    return np.concatenate(
        [flat[wavefront.level][wavefront.places].ravel() for wavefront in step.wavefronts]
    )


class Reference:
    """One picture, positions in raster order, int64 sums, Python integers for frequencies."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {name: tensor.astype(np.int64) for name, tensor in tensors.items()}

    def get(self, name: str) -> NDArray[np.int64]:
        return self.tensors[f"prior.{name}"]

    def exponent(self, name: str) -> NDArray[np.int64]:
        """Of each column."""
        return self.get(f"{name}.exponent")

    @staticmethod
    def rounded(x: NDArray[np.int64], shift: NDArray[np.int64] | int) -> NDArray[np.int64]:
        return (x + (1 << (shift - 1))) >> shift

    @staticmethod
    def clamp(x: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.clip(x, -1016, 1016)

    def narrow(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.rounded(x, 3)

    @staticmethod
    def taps(x: NDArray[np.int64], i: int, j: int, taps: Any, weight: NDArray[np.int64]) -> Any:
        """Sum over taps of x[i + dy, j + dx] @ weight[tap], zero outside."""
        total = np.zeros(weight.shape[2], np.int64)
        for (dy, dx), matrix in zip(taps, weight, strict=True):
            if 0 <= i + dy < x.shape[0] and 0 <= j + dx < x.shape[1]:
                total += x[i + dy, j + dx] @ matrix
        return total

    def embedding_sums(self, level: int, grid: NDArray[np.int64]) -> NDArray[np.int64]:
        """(h, w, S) -> (h, w, C), not yet clamped."""
        table = self.get(f"level{level}.embedding")
        height, width, slices = grid.shape
        total = np.zeros((height, width, table.shape[2]), np.int64)
        for i in range(height):
            for j in range(width):
                for k in range(slices):
                    total[i, j] += table[k, grid[i, j, k]]
        return total

    def embed(self, level: int, grid: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.clamp(self.embedding_sums(level, grid))

    def context_sum(self, grids: Sequence[NDArray[np.int64]], level: int) -> NDArray[np.int64]:
        total = np.zeros((*grids[0].shape[:2], CONFIG.prior.channels[0]), np.int64)
        for k in range(level):
            total = total + self.embed(k, grids[k])
            stride, finer = CONFIG.levels[k].stride, CONFIG.levels[k + 1].stride
            if finer != stride:
                total = self.upsample(f"{stride}.up", self.clamp(total), stride // finer)
        return total

    def upsample(self, name: str, total: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
        (height, width, channels), weight = total.shape, self.get(f"{name}.weight")
        weight = weight.reshape(channels, factor, factor, -1)
        exponents = self.exponent(name).reshape(weight.shape[1:])
        fine = np.empty((height * factor, width * factor, weight.shape[3]), np.int64)
        for i in range(height * factor):
            for j in range(width * factor):
                y, x, seen = i % factor, j % factor, self.narrow(total[i // factor, j // factor])
                fine[i, j] = self.rounded(seen @ weight[:, y, x], exponents[y, x] - 3)
        return fine

    def logits(
        self, grids: Sequence[NDArray[np.int64]], level: int, quality: int
    ) -> NDArray[np.int64]:
        """(h, w, S, K)."""
        s = CONFIG.levels[level].stride
        height, width, slices = grids[level].shape
        ctx = self.narrow(self.clamp(self.context_sum(grids, level)))
        square = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        for k in (1, 2):
            e = self.exponent(f"{s}.context{k}")
            added = self.get(f"level{level}.condition")[quality, k - 1] << (e - 4)
            out = np.empty_like(ctx)
            for i in range(height):
                for j in range(width):
                    sums = self.taps(ctx, i, j, square, self.get(f"{s}.context{k}.weight")) + added
                    if k == 1:
                        out[i, j] = np.clip(self.rounded(sums, e), 0, 127)
                    else:
                        out[i, j] = self.clamp(self.rounded(sums, e - 3))
            ctx = out
        own = self.narrow(self.embed(level, grids[level]))
        first = [(0, -1), (0, -2), (-1, -2), (-1, -1), (-1, 0), (-1, 1), (-2, -1), (-2, 0), (-2, 1)]
        h = np.empty_like(ctx)
        for i in range(height):
            for j in range(width):
                sums = self.taps(own, i, j, first, self.get(f"{s}.first.weight"))
                shift = self.exponent(f"{s}.first") - 3
                h[i, j] = self.clamp(ctx[i, j] + self.rounded(sums, shift))
        for k in range(CONFIG.prior.layers):
            h = self.layer(f"{s}.{k}", h, ctx)
        e = self.exponent(f"level{level}.output")
        bias = self.get(f"level{level}.output.bias")[quality * 16 // 101]
        sums = self.narrow(h) @ self.get(f"level{level}.output.weight") + bias
        return self.rounded(sums, e - 2).reshape(height, width, slices, -1)

    def layer(self, name: str, h: NDArray[np.int64], ctx: NDArray[np.int64]) -> Any:
        weight, bias = self.get(f"{name}.gate.weight"), self.get(f"{name}.gate.bias")
        e, channels = self.exponent(f"{name}.gate"), h.shape[2]
        out, seen, beside = np.empty_like(h), self.narrow(h), self.narrow(ctx)
        for i in range(h.shape[0]):
            for j in range(h.shape[1]):
                taps = [(0, 0), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
                sums = self.taps(seen, i, j, taps, weight[:5]) + beside[i, j] @ weight[5] + bias
                a = np.clip(self.rounded(sums[:channels], e[:channels] - 3), -128, 127)
                gate = np.clip(64 + self.rounded(sums[channels:], e[channels:] - 1), 0, 128)
                u = (a * gate) >> 7
                sums = u @ self.get(f"{name}.residual.weight")
                shift = self.exponent(f"{name}.residual")
                out[i, j] = self.clamp(h[i, j] + self.rounded(sums, shift))
        return out

    def frequencies(self, logits: NDArray[np.int64]) -> list[int]:
        """(K,) logits of one slice of one position."""
        values, table = logits.tolist(), self.get("table").tolist()
        best, size = max(values), len(values)
        shares = [table[min(best - value, 1023)] for value in values]
        result = [1 + share * (2**24 - size) // sum(shares) for share in shares]
        result[values.index(best)] += 2**24 - sum(result)
        return result

    def coded(self, logits: NDArray[np.int64], grid: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frequencies (h, w, S, K) of one level, each slice with adaptive counts of its own."""
        (height, width, slices), found = grid.shape, np.empty_like(logits)
        for s in range(slices):
            counts = CountsReference(logits.shape[3])
            for t in range(width + 2 * height):
                wavefront = [(i, t - 2 * i) for i in range(height) if 0 <= t - 2 * i < width]
                for i, j in wavefront:
                    found[i, j, s] = self.frequencies(logits[i, j, s] + counts.added())
                if wavefront:
                    rows, cols = map(list, zip(*wavefront, strict=True))
                    counts.learn(grid[rows, cols, s], found[rows, cols, s])
        return found


class CountsReference:
    """Section 5, *Adaptive counts*, in Python's integers."""

    def __init__(self, size: int) -> None:
        self.correction, self.expected = [0] * size, [0] * size

    def added(self) -> NDArray[np.int64]:
        return np.array([w // 16 for w in self.correction])

    def learn(self, indices: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        for k in range(len(self.correction)):
            n, e = indices.tolist().count(k) << 24, sum(int(row[k]) for row in rows)
            sums = n + e + 2 * self.expected[k] + 6 * 2**24
            step = 2048 * (n - e) // sums
            self.correction[k] = min(max(self.correction[k] + step, -(2**14)), 2**14)
            self.expected[k] = min(self.expected[k] + e, 2**30)


def expected(
    tensors: Tensors, grids: Sequence[NDArray[np.int64]], quality: int
) -> list[NDArray[np.int64]]:
    """Per level (batch, h, w, S, K)."""
    reference, levels = Reference(tensors), []
    for level in range(len(grids)):
        pictures = []
        for b in range(len(grids[0])):
            picture = [grid[b] for grid in grids]
            logits = reference.logits(picture, level, quality)
            pictures.append(reference.coded(logits, picture[level]))
        levels.append(np.stack(pictures))
    return levels


@pytest.mark.parametrize("coarse", SHAPES)
@pytest.mark.parametrize(("batch", "gain"), [(1, 1.0), (3, 4.0)])
def test_scan_and_scan_known_agree_with_the_reference(
    coarse: tuple[int, int], batch: int, gain: float
) -> None:
    tensors = tiny_tensors(seed=coarse[0], gain=gain)
    grids = random_grids(coarse, batch, seed=1)
    want = expected(tensors, grids, quality=37)

    def choose(step: Step) -> NDArray[np.int64]:
        for level, places, frequencies in wavefronts(step, batch):
            flat = want[level].reshape(batch, -1, *want[level].shape[3:])
            np.testing.assert_array_equal(frequencies, flat[:, places])
        return ordered(step, grids)

    ways: list[Arithmetic] = [FloatArithmetic(), FloatArithmetic(np.float64)]
    if int8_is_right():
        ways.append(Int8Arithmetic(least=0))
    for arithmetic in ways:
        prior = IntegerPrior(CONFIG, tensors, arithmetic)
        scanned = scan(prior, shapes_from(coarse), 37, choose, batch)
        for got, grid in zip(scanned, grids, strict=True):
            assert got.dtype == np.int32
            np.testing.assert_array_equal(got, grid)
        for step, indices in scan_known(prior, grids, 37):
            np.testing.assert_array_equal(indices, choose(step))


def test_the_reference_reaches_every_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparison above would say little about clamping."""
    seen: list[NDArray[np.int64]] = []
    original = np.clip

    def spy(x: Any, low: int, high: int) -> Any:
        seen.append(np.concatenate([(x < low).ravel() * low, (x > high).ravel() * high]))
        return original(x, low, high)

    grids = random_grids((3, 4), 1, 1)
    reference = Reference(tiny_tensors(3, 4.0))
    monkeypatch.setattr(np, "clip", spy)
    for level in range(len(CONFIG.levels)):
        reference.logits([grid[0] for grid in grids], level, 37)
    assert set(np.concatenate(seen).tolist()) == {-1016, -128, 0, 127, 128, 1016}
    for level, grid in enumerate(grids):
        sums = reference.embedding_sums(level, grid[0])
        if grid.shape[3] > 1:
            assert sums.min() < -1016 and sums.max() > 1016


def test_frequencies_are_positive_and_sum_to_the_total() -> None:
    prior, grids = IntegerPrior(CONFIG, tiny_tensors(5, 6.0)), random_grids((4, 5), 2, 3)
    for step, _ in scan_known(prior, grids, 100):
        frequencies = step.frequencies
        assert frequencies.dtype == np.float64
        assert frequencies.min() >= 1
        assert (frequencies.sum(axis=1) == 2**24).all()
        assert (frequencies == np.floor(frequencies)).all()


@pytest.mark.parametrize("coarse", SHAPES)
def test_the_order_is_that_of_the_page(coarse: tuple[int, int]) -> None:
    visited: list[tuple[int, int, int]] = []
    ended: list[tuple[int, int]] = []

    def choose(step: Step) -> NDArray[np.int64]:
        end = 0
        for wavefront in step.wavefronts:
            places = [
                divmod(place, shapes[wavefront.level][1]) for place in wavefront.places.tolist()
            ]
            visited.extend((wavefront.level, i, j) for i, j in places)
            assert len({j + 2 * i for i, j in places}) == 1
            begin, end = end, end + len(places) * CONFIG.levels[wavefront.level].slices
            assert wavefront.indices == slice(begin, end)
        assert end == len(step.shares)
        return np.zeros(end, np.int64)

    def done(grids: list[NDArray[np.int32]]) -> None:
        ended.append((len(grids), len(visited)))

    shapes = shapes_from(coarse)
    prior = IntegerPrior(CONFIG, tiny_tensors(0, 1.0))
    grids = scan(prior, shapes, 0, choose, done=done)
    slices = [level.slices for level in CONFIG.levels]
    wanted = [(1, *shape, count) for shape, count in zip(shapes, slices, strict=True)]
    assert [grid.shape for grid in grids] == wanted
    every = [
        (level, i, j) for level, (h, w) in enumerate(shapes) for i in range(h) for j in range(w)
    ]

    def key(place: tuple[int, int, int]) -> tuple[int, int, int, int]:
        level, i, j = place
        return level // 2, j + 2 * i + 7 * (level % 2), level, i  # two levels of a stride

    assert visited == sorted(every, key=key)
    # A level has ended when it was visited last, and before the scan goes on.
    last = {level: k + 1 for k, (level, _, _) in enumerate(visited)}
    assert [count for count, _ in ended] == [1, 2, 3, 4, 5]
    for count, seen in ended:
        behind = {level for level, _, _ in visited[last[count - 1] : seen]}
        assert last[count - 1] <= seen and behind <= {count}


def test_rows_of_any_number_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are let loose from some number on; the products are exact."""
    prior, grids = IntegerPrior(CONFIG, tiny_tensors(6, 2.0)), random_grids((5, 7), 2, 4)
    found = [step.shares for step, _ in scan_known(prior, grids, 60)]
    bits = cross_entropy_bits(prior, grids, 60)
    monkeypatch.setattr(wavefront_scan, "MANY_ROWS", 0)
    for (step, _), wanted in zip(scan_known(prior, grids, 60), found, strict=True):
        np.testing.assert_array_equal(step.shares, wanted)
    counted = [0.0] * len(grids)
    for step, _ in scan_known(prior, grids, 60):
        chosen = ordered(step, grids)
        for wavefront in step.wavefronts:
            rows = step.frequencies[wavefront.indices]
            for row, index in zip(rows, chosen[wavefront.indices], strict=True):
                counted[wavefront.level] -= np.log2(row[index] / 2**24)
    np.testing.assert_allclose(bits, counted)


def test_bad_arguments_are_refused() -> None:
    prior, grids = IntegerPrior(CONFIG, tiny_tensors(0, 1.0)), random_grids((2, 3), 1, 0)

    def first(step: Step) -> NDArray[np.int64]:
        return np.zeros(len(step.shares), np.int64)

    for shapes in ([], [(2, 3), (3, 2)], [(2, 3), (2, 3), (4, 7)], [(0, 3)], [(1, 1)] * 6):
        with pytest.raises(ValueError):
            scan(prior, shapes, 0, first)
    for quality in (-1, 101):
        with pytest.raises(ValueError, match="quality"):
            scan(prior, [(2, 3)], quality, first)
    for bad in (-1, 7):
        with pytest.raises(ValueError, match="codebook"):
            cross_entropy_bits(prior, [np.full((1, 2, 3, 1), bad)], 0)
    second = grids[1]  # of two slices
    for wrong in (np.repeat(second, 2, axis=0), second[..., :1], second[..., 0], second[..., None]):
        with pytest.raises(ValueError, match="shape"):
            cross_entropy_bits(prior, [grids[0], wrong], 0)
    second[0, 1, 2, 1] = 7
    with pytest.raises(ValueError, match="codebook"):
        cross_entropy_bits(prior, grids[:2], 0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prior.table", lambda t: t * 0),
        ("prior.table", lambda t: t[:-1]),
        ("prior.16.first.weight", lambda t: t.astype(np.int16)),
        ("prior.16.first.exponent", lambda t: t * 0 + 3),
        ("prior.16.first.exponent", lambda t: t[:1]),
        ("prior.16.context1.exponent", lambda t: t * 0 + 16),
        ("prior.8.0.gate.bias", lambda t: t * 0 + 2**24),
        ("prior.16.up.weight", lambda t: t.T),
        ("prior.level1.embedding", lambda t: t * 0 - 1017),
        ("prior.level3.output.bias", lambda t: t * 0 + (-(2**31))),
        ("prior.level4.embedding", lambda t: t.swapaxes(0, 1)),
        ("prior.level4.embedding", lambda t: t[0]),
        ("prior.level4.output.weight", lambda t: t.reshape(-1, 3, 4)),
        ("prior.level4.output.bias", lambda t: t[:, :4]),
        ("prior.level0.condition", lambda t: t[:100]),
        ("prior.level0.condition", None),
    ],
)
def test_tensors_that_break_a_bound_are_refused(name: str, change: Any) -> None:
    tensors = tiny_tensors(0, 1.0)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    with pytest.raises(ModelError, match=name.rpartition(".")[0]):
        IntegerPrior(CONFIG, tensors)


def test_more_channels_than_sums_have_room_for_are_refused() -> None:
    prior = PriorConfig(channels=(120,), layers=1)
    config = replace(CONFIG, levels=CONFIG.levels[:2], latent_dims=(6,), prior=prior)
    torch.manual_seed(0)
    tensors = freeze(Prior(config))
    IntegerPrior(config, tensors)
    tensors["prior.16.first.weight"][:] = 127
    with pytest.raises(ModelError, match="sums of prior.16.first can reach"):
        IntegerPrior(config, tensors)


def test_no_torch_is_imported() -> None:
    code = "import sys, vqcodec.prior.range_coder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
