"""Beam search for a sum of codes, one of each codebook, close to a vector and cheap in bits.

Level after level, only the best few sums so far are followed up at each position. Greedy search
would take the nearest code of each level by itself; the best sum is often another.
Source: multi-path search of residual vector quantisers, Juang and Gray (1982); the expansion into
single and pair terms as in additive quantisation, Babenko and Lempitsky (2014).
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Beam", "smallest"]

COSTS_AT_ONCE = 2**20  # (path, code) pairs whose cost is held in memory
GROUP = 16  # values of which the minimum is taken first


class Beam:
    """Finds codes, one of each codebook (K_l, D), of small |v - sum of codes|^2 + sum of offsets.

    With |v|^2 left out, this is the sum of what each code costs alone, |e|^2 - 2 v e + offset, and
    of 2 e e' for each pair, which does not depend on v and is looked up.
    """

    def __init__(self, codebooks: Sequence[Tensor], beam: int) -> None:
        """`beam`: how many paths are followed up."""
        self.codes, self.beam = torch.cat(list(codebooks)), beam
        self.squares = self.codes.square().sum(1)
        ends = list(itertools.accumulate(map(len, codebooks)))
        self.blocks = list(zip([0, *ends[:-1]], ends, strict=True))
        twice = 2 * self.codes
        self.pairs = [twice[:start] @ self.codes[start:end].T for start, end in self.blocks]
        self.step = max(1, COSTS_AT_ONCE // (beam * max(map(len, codebooks))))

    def __call__(self, vectors: Tensor, offsets: Tensor) -> Tensor:
        """Indices (n, L) for vectors (n, D) and offsets (n, sum of K_l); n is best near `step`."""
        alone = torch.addmm(self.squares, vectors, self.codes.T, alpha=-2) + offsets
        paths = torch.zeros(len(vectors), 1, 0, dtype=torch.long)  # rows of `codes`
        spent = torch.zeros(len(vectors), 1)
        for (start, end), pairs in zip(self.blocks, self.pairs, strict=True):
            cost = alone[:, None, start:end]
            if start:
                cross = F.embedding_bag(paths.flatten(0, 1), pairs, mode="sum")
                cost = cross.view(*spent.shape, -1).add_(cost).add_(spent[..., None])
            # After the last level only the best sum is needed.
            spent, best = smallest(cost.flatten(1), self.beam if end < len(self.codes) else 1)
            size = end - start
            paths = paths.gather(1, (best // size)[..., None].expand(-1, -1, paths.shape[2]))
            paths = torch.cat([paths, (best % size + start)[..., None]], 2)
        return paths[:, 0] - torch.tensor([start for start, _ in self.blocks])


def smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest of each row (n, M), or all M if fewer, in order, and where they are."""
    groups = values.shape[1] // GROUP
    if values.shape[1] % GROUP or groups <= count:
        return values.topk(min(count, values.shape[1]), 1, largest=False)
    # They lie in the groups of the `count` smallest minima; minima are fast, topk is not.
    columns = values.view(-1, GROUP, groups)
    _, near = columns.amin(1).topk(count, 1, largest=False, sorted=False)
    few = columns.gather(2, near[:, None].expand(-1, GROUP, -1)).flatten(1)
    found, which = few.topk(count, 1, largest=False)
    return found, which // count * groups + near.gather(1, which % count)
