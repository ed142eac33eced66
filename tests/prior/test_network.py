"""The float prior: shapes, causality, initialisation, and what freezing costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import cross_entropy_bits

from vqcodec.config import Level, ModelConfig, PriorConfig
from vqcodec.prior import network as prior
from vqcodec.prior.adaptive_counts import AdaptiveCounts
from vqcodec.prior.freeze import freeze, thaw, unfrozen
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.network import Prior

CONFIG = ModelConfig(
    name="tiny",
    levels=(Level(16, 12), Level(16, 12), Level(8, 11, slices=3)),
    latent_dims=(6, 6),
    prior=PriorConfig(channels=(8, 6), layers=2),
)


def random_grids(batch: int, height: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    grids = []
    for level in CONFIG.levels:
        factor = 16 // level.stride
        shape = (batch, height * factor, width * factor, level.slices)
        grids.append(torch.randint(level.codebook_size, shape, generator=generator))
    return grids


@pytest.mark.parametrize("level", range(3))
def test_shapes_and_dtypes(level: int) -> None:
    model, grids = Prior(CONFIG), random_grids(2, 3, 5)
    quality = torch.tensor([0, 100])
    logits = model(grids[: level + 1], quality, level)
    assert logits.shape == (*grids[level].shape, CONFIG.levels[level].codebook_size)
    assert logits.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        bits = model.coded_bits(grids, quality, level)
    assert bits.shape == (2,) and bits.dtype == torch.float32
    scores = logits.log_softmax(dim=4).gather(4, grids[level][..., None])
    want = -scores.flatten(1).sum(1) / np.log(2)
    torch.testing.assert_close(bits, want, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("level", range(3))
def test_a_position_sees_only_earlier_wavefronts_and_coarser_levels(level: int) -> None:
    torch.manual_seed(1)
    model, grids = Prior(CONFIG), random_grids(1, 5, 6)
    before = model(grids, torch.tensor([30]), level)
    row, col = 2, 3
    changed = [grid.clone() for grid in grids]
    changed[level][0, row, col, 0] = (changed[level][0, row, col, 0] + 1) % 9
    for finer in range(level + 1, len(grids)):
        changed[finer] = torch.zeros_like(changed[finer])
    after = model(changed, torch.tensor([30]), level)
    moved = ((before - after).abs() > 1e-6).flatten(3).any(dim=3)[0].nonzero()
    assert len(moved) > 3
    # So no slice sees another one of its own position.
    assert (moved[:, 1] + 2 * moved[:, 0]).min() > col + 2 * row
    if level:
        changed = [grid.clone() for grid in grids]
        changed[0][0, row, col] = (changed[0][0, row, col] + 1) % 9
        after = model(changed, torch.tensor([30]), level)
        assert (after != before).flatten(3).any(dim=3).sum() > 9


def test_every_slice_matters_to_later_positions_and_finer_levels() -> None:
    config = ModelConfig(
        name="tiny",
        levels=(Level(16, 9, slices=3), Level(8, 9)),
        latent_dims=(6, 5),
        prior=PriorConfig(channels=(8, 6), layers=2),
    )
    torch.manual_seed(5)
    model, quality = Prior(config), torch.tensor([30])
    grids = [torch.zeros(1, 3, 4, 3, dtype=torch.int64), torch.zeros(1, 6, 8, 1, dtype=torch.int64)]
    before = [model(grids, quality, level) for level in range(2)]
    for k in range(3):
        changed = [grid.clone() for grid in grids]
        changed[0][0, 1, 1, k] = 4
        after = [model(changed, quality, level) for level in range(2)]
        assert (before[0] != after[0])[0, 1, 2].any(dim=1).all()  # in all slices
        assert (before[1] != after[1])[0, 2:4, 2:4].any()


def test_embeddings_of_slices_are_summed_and_clamped() -> None:
    model = Prior(CONFIG)
    table = model.tables(2).embedding
    torch.nn.init.normal_(table, std=6.0)
    grid = random_grids(2, 2, 3)[2]
    got = model.embed(2, grid)
    assert got.shape == (2, 4, 6, 6) and got.abs().max() == prior.LIMIT
    for b, i, j in [(0, 0, 0), (1, 3, 5), (0, 2, 1), (1, 0, 4)]:
        want = torch.stack([table[k, grid[b, i, j, k]] for k in range(3)]).sum(0)
        torch.testing.assert_close(got[b, i, j], want.clamp(-prior.LIMIT, prior.LIMIT))


def test_quality_and_level_matter() -> None:
    model, grids = Prior(CONFIG), random_grids(1, 4, 4)
    low, high = (model(grids, torch.tensor([q]), 1) for q in (0, 100))
    assert (low != high).any()


def test_upsampling_follows_the_documented_row_order() -> None:
    trunk = Prior(CONFIG).trunk(0)
    total = torch.randn(1, 2, 3, 8)
    fine = trunk.upsample(total)
    assert fine.shape == (1, 4, 6, 6)
    weight = trunk.up.weight.reshape(2, 2, 6, 8)
    for i, j, dy, dx in [(0, 0, 0, 0), (1, 2, 1, 0), (0, 1, 0, 1), (1, 0, 1, 1)]:
        want = weight[dy, dx] @ total[0, i, j]
        torch.testing.assert_close(fine[0, 2 * i + dy, 2 * j + dx], want)


def test_initialisation_predicts_the_finer_latent() -> None:
    """The upsampled embedding of a coarse code is the embedding of the latent that it makes."""
    generator = torch.Generator().manual_seed(2)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) + 0.5

    model = Prior(CONFIG)
    codebooks = [rand(1, 12, 6), rand(1, 12, 6), rand(3, 11, 2)]
    sigmas = {16: rand(6), 8: rand(6)}
    projection = torch.randn(4 * 6, 6, generator=generator)
    lengths = [rand(16, *codebook.shape[:2]) for codebook in codebooks]
    model.initialise(lengths, codebooks, sigmas, {8: projection})
    torch.testing.assert_close(model.tables(1).bias, -math.log(2) * lengths[1])
    coarse = model.embed(0, torch.tensor([[[[3]]]]))
    torch.testing.assert_close(coarse[0, 0, 0, :6], 0.5 * codebooks[0][0, 3] / sigmas[16])
    assert (coarse[..., 6:] == 0).all()  # two channels more than coordinates
    fine = model.trunk(0).upsample(coarse)[0, 1, 0]  # dy 1, dx 0
    latent = (projection @ codebooks[0][0, 3]).reshape(2, 2, 6)[1, 0]
    torch.testing.assert_close(fine, 0.5 * latent / sigmas[8])


def test_initialised_slices_embed_near_codes_nearby() -> None:
    config = ModelConfig(
        name="tiny",
        levels=(Level(8, 200, slices=12),),
        latent_dims=(48,),
        prior=PriorConfig(channels=(32,), layers=1),
    )
    torch.manual_seed(6)
    model = Prior(config)
    codebook = torch.randn(12, 200, 4) * torch.rand(12, 1, 1)
    codebook[:, 0] = 0
    codebook[:, 3] = codebook[:, 1] + codebook[:, 2]
    lengths = torch.rand(16, 12, 200)
    model.initialise([lengths], [codebook], {8: torch.rand(48)}, {})
    tables = model.tables(0)
    torch.testing.assert_close(tables.bias, -math.log(2) * lengths)
    torch.testing.assert_close(tables.output, 0.2 * tables.embedding)
    assert (tables.embedding[:, 0] == 0).all()
    linear = tables.embedding[:, 1] + tables.embedding[:, 2]
    torch.testing.assert_close(tables.embedding[:, 3], linear)
    # However many the slices, and whatever their scale, the sum is as large as one embedding.
    total = model.embed(0, torch.randint(200, (4, 16, 16, 12)))
    assert float(total.detach().std()) == pytest.approx(0.5, rel=0.1)


def test_columns_have_exponents_of_their_own() -> None:
    model = Prior(CONFIG)
    conv = model.trunk(0).context1
    torch.nn.init.constant_(conv.weight, 0.01)
    conv.weight.data[0] = 1.9
    conv.weight.data[1, 0] = 9.0  # 127 / 16 is the most
    frozen = freeze(model)
    name = f"prior.{CONFIG.levels[0].stride}.context1"
    exponents, weight = frozen[f"{name}.exponent"], frozen[f"{name}.weight"]
    assert exponents[:3].tolist() == [6, 4, 13]
    assert (weight[..., 0] == 122).all() and weight[0, 0, 1] == 127
    assert (weight[..., 2:] == 82).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_cannot_be_frozen(value: float) -> None:
    model = Prior(CONFIG)
    model.trunk(0).context1.weight.data[1, 2] = value
    with pytest.raises(ValueError, match="context1"):
        freeze(model)


def patterned_grids(generator: torch.Generator) -> list[torch.Tensor]:
    """Grids with structure to learn: drifting ramps, levels that follow each other."""
    i, j = torch.arange(8)[:, None], torch.arange(8)
    start, slope = torch.randint(12, (2, 6, 1, 1), generator=generator)
    noise = torch.randint(2, (6, 8, 8), generator=generator)
    coarse = (start + slope * i + j + noise) % 12
    middle = (coarse * 5 + noise) % 9
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    fine = fine[..., None] * torch.tensor([1, 3, 5])  # slices that know of each other
    fine = (fine + torch.randint(3, fine.shape, generator=generator)) % 11
    return [coarse[..., None], middle[..., None], fine]


def test_freezing_costs_under_half_a_percent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdaptiveCounts, "learn", lambda *_: None)  # the prior by itself
    torch.manual_seed(3)
    model, generator = Prior(CONFIG), torch.Generator().manual_seed(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    for _ in range(80):
        grids = patterned_grids(generator)
        quality = torch.randint(101, (6,), generator=generator)
        bits = torch.stack([model.coded_bits(grids, quality, level).mean() for level in range(3)])
        optimizer.zero_grad()
        bits.sum().backward()
        optimizer.step()
    grids = patterned_grids(generator)
    with torch.no_grad():
        quality = torch.full((6,), 40)
        floats = [float(model.coded_bits(grids, quality, level).sum()) for level in range(3)]
    frozen = IntegerPrior(CONFIG, freeze(model))
    exact = cross_entropy_bits(frozen, [grid.numpy() for grid in grids], 40)
    uniform = sum(grid.numel() * np.log2(12) for grid in grids)
    loss = sum(exact) / sum(floats) - 1
    with capsys.disabled():
        print(f" [freezing costs {100 * loss:+.3f} % of {sum(floats):.0f} bits]", end="")
    assert sum(floats) < 0.6 * uniform  # it learned something
    assert loss < 0.005


def test_a_prior_frozen_in_other_units_is_not_thawed() -> None:
    frozen = freeze(Prior(CONFIG))
    name = f"prior.{CONFIG.levels[0].stride}.first.weight"
    frozen[name] = frozen[name].astype(np.int16)
    with pytest.raises(ValueError, match="first.weight is int16, not int8"):
        thaw(Prior(CONFIG), frozen)


def test_thawing_undoes_freezing_up_to_rounding() -> None:
    torch.manual_seed(4)
    trained, thawed = Prior(CONFIG), Prior(CONFIG)
    for weights in trained.parameters():
        weights.data += 0.05 * torch.randn_like(weights)
    frozen = freeze(trained)
    thaw(thawed, frozen)
    thawed.load_state_dict(unfrozen(trained), strict=False)
    grids, quality = random_grids(2, 3, 5), torch.tensor([10, 90])
    for level in range(3):
        want, got = (model(grids, quality, level).detach() for model in (trained, thawed))
        assert 0 < float((want - got).abs().mean()) < 0.05 * float(want.std())
    again = freeze(thawed)
    assert again.keys() == frozen.keys()
    for name, integers in frozen.items():
        matrix = name.rpartition(".")[0] + ".exponent"
        change = int(again[matrix][0]) - int(frozen[matrix][0]) if matrix in frozen else 0
        if not name.endswith(".exponent"):  # a bound met narrowly may leave room for a bit more
            np.testing.assert_array_equal(again[name], integers * 2**change)


def test_what_is_not_a_frozen_prior_is_not_thawed() -> None:
    frozen = freeze(Prior(CONFIG))
    for name in ("prior.8.first.weight", "prior.level1.embedding", "prior.16.up.exponent"):
        for changed in ({}, {name: frozen[name].reshape(-1)[:0]}):
            rest = {key: value for key, value in frozen.items() if key != name}
            with pytest.raises(ValueError, match="not a frozen prior"):
                thaw(Prior(CONFIG), rest | changed)
