from typing import Any

import pytest

from vqcodec.config import PRESETS, Level, ModelConfig, PriorConfig


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_json_round_trip(name: str) -> None:
    assert ModelConfig.from_json(PRESETS[name].to_json()) == PRESETS[name]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", '{"levels": 3}', "[" * 100_000),
        *(
            PRESETS["photo"].to_json().replace(*change)
            for change in (
                ("lambdas", "x"),
                ('"stride":8', '"stride":8.0'),
                ('"codebook_size":256', '"codebook_size":256.5'),
                ("[192,96]", "[192,96.5]"),
                ("[128,2]", "[128]"),
                ("[128,2]", "[1000000000,2]"),
                ("[0.3,0.0012]", "[0.3]"),
                ("[0.3,0.0012]", "[Infinity,0.0012]"),
            )
        ),
    ],
    ids=lambda text: text[-40:],
)
def test_bad_json_is_one_error(text: str) -> None:
    assert text != PRESETS["photo"].to_json()
    with pytest.raises(ValueError):
        ModelConfig.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"levels": ()},
        {"levels": (Level(8, 16), Level(16, 16))},
        {"latent_dims": (8,)},
        {"latent_dims": (8, 193)},
        {"prior": PriorConfig(channels=(8,))},
        {"lambdas": (0.1, 0.2)},
        {"lambdas": (0.1, 0.0)},
    ],
)
def test_impossible_models_are_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "name": "x",
        "levels": (Level(16, 16), Level(8, 16)),
        "latent_dims": (8, 8),
        "prior": PriorConfig(channels=(8, 8)),
    }
    ModelConfig(**good)
    with pytest.raises(ValueError):
        ModelConfig(**(good | change))


def test_lambda_falls_log_linearly() -> None:
    config = PRESETS["photo"]
    first, middle, last = (config.lambda_at(q) for q in (0, 50, 100))
    assert (first, last) == pytest.approx(config.lambdas)
    assert middle == pytest.approx((first * last) ** 0.5)


def test_grid_shapes_pad_to_the_coarsest_stride() -> None:
    shapes = PRESETS["vq-vae-2"].grid_shapes(17, 1)
    assert shapes == [(2, 1), (4, 2)]
