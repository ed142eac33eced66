"""beam_search.py: the search for a sum of codes, against trying all sums."""

import itertools

import pytest
import torch
from torch import Tensor

from vqcodec.networks.beam_search import Beam, smallest

SIZES = (6, 5, 4)


def problem(dim: int = 5, count: int = 50) -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    codebooks = [torch.randn(size, dim) / (k + 1) for k, size in enumerate(SIZES)]
    return codebooks, torch.randn(count, dim), torch.rand(count, sum(SIZES))


def costs(codebooks: list[Tensor], vectors: Tensor, offsets: Tensor, indices: Tensor) -> Tensor:
    """|v - sum of codes|^2 + sum of offsets, by the definition: (n,)."""
    total, rest, start = torch.zeros(len(vectors)), vectors, 0
    for k, codes in enumerate(codebooks):
        rest = rest - codes[indices[:, k]]
        total += offsets.gather(1, indices[:, k : k + 1] + start)[:, 0]
        start += len(codes)
    return total + rest.square().sum(1)


def test_a_wide_beam_finds_the_best_sum_of_all() -> None:
    codebooks, vectors, offsets = problem()
    every = itertools.product(*map(range, SIZES))
    best = torch.stack(
        [costs(codebooks, vectors, offsets, torch.tensor([path] * len(vectors))) for path in every]
    ).amin(0)
    found = costs(codebooks, vectors, offsets, Beam(codebooks, 120)(vectors, offsets))
    torch.testing.assert_close(found, best)


def test_a_wider_beam_costs_less() -> None:
    codebooks, vectors, offsets = problem()
    means = [
        float(costs(codebooks, vectors, offsets, Beam(codebooks, beam)(vectors, offsets)).mean())
        for beam in (1, 2, 4, 8)
    ]
    assert means == sorted(means, reverse=True) and means[0] > means[-1] + 0.1


def test_a_beam_of_one_decides_code_after_code() -> None:
    codebooks, vectors, offsets = problem()
    indices, start, rest = Beam(codebooks, 1)(vectors, offsets), 0, vectors
    for k, codes in enumerate(codebooks):
        cost = torch.cdist(rest, codes).square() + offsets[:, start : start + len(codes)]
        assert torch.equal(indices[:, k], cost.argmin(1))
        rest, start = rest - codes[indices[:, k]], start + len(codes)


@pytest.mark.parametrize("width", [1, 6, 16, 100, 256, 4096])
@pytest.mark.parametrize("count", [1, 2, 8, 16])
def test_smallest_is_topk(width: int, count: int) -> None:
    values = torch.randn(7, width)
    found, where = smallest(values, count)
    want, _ = values.topk(min(count, width), 1, largest=False)
    assert torch.equal(found, want)
    assert torch.equal(values.gather(1, where), found)
