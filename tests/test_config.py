import json
import math
from dataclasses import replace
from typing import Any

import pytest

from vqcodec.config import PRESETS, Level, ModelConfig, PriorConfig

LAMBDAS = json.dumps(PRESETS["photo"].lambdas, separators=(",", ":"))


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
                ('"slices":24', '"slices":24.0'),
                ('"slices":24', '"slices":5'),
                ('"slices":24', '"slices":0'),
                ('"slices":24', '"slices":true'),
                ("[192,192]", "[192,192.5]"),
                ("[192,4]", "[128]"),
                ("[192,4]", "[1000000000,2]"),
                (LAMBDAS, "[0.3]"),
                ('"tune":"psnr"', '"tune":"vmaf"'),
                ('"tune":"psnr"', '"tune":["psnr"]'),
                (LAMBDAS, "0.3"),
                (LAMBDAS, "[0.3,[0.019],0.0005]"),
                (LAMBDAS, "[0.3,NaN,0.0005]"),
                (LAMBDAS, "[Infinity,0.019,0.0005]"),
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
        {"levels": (Level(16, 16), Level(8, 16, slices=3))},
        {"levels": (Level(16, 16, slices=16), Level(8, 16))},
        {"levels": (Level(16, 16), Level(8, 16), Level(8, 8))},
        {"latent_dims": (8, 6)},
        {"latent_dims": (8,)},
        {"latent_dims": (8, 193)},
        {"prior": PriorConfig(channels=(8,))},
        {"lambdas": (0.1, 0.2)},
        {"lambdas": (0.1, 0.0)},
        {"lambdas": (0.1,)},
        {"lambdas": (0.3, 0.1, 0.2)},
        {"lambdas": (0.1, 0.2, 0.01)},
        {"lambdas": (math.inf, 0.2, 0.1)},
        {"lambdas": (0.3, math.nan, 0.1)},
    ],
)
def test_impossible_models_are_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "name": "x",
        "levels": (Level(16, 16), Level(8, 16, slices=4)),
        "latent_dims": (8, 8),
        "prior": PriorConfig(channels=(8, 8)),
    }
    ModelConfig(**good)
    with pytest.raises(ValueError):
        ModelConfig(**(good | change))


@pytest.mark.parametrize(
    ("lambdas", "at"),
    [
        ((0.4, 0.1), {0: 0.4, 50: 0.2, 75: 0.4 / 4**0.75, 100: 0.1}),
        ((0.4, 0.1, 0.0001), {0: 0.4, 25: 0.2, 50: 0.1, 75: 0.1 / 1000**0.5, 100: 0.0001}),
        ((8.0, 4.0, 2.0, 1.0), {0: 8.0, 100 / 3: 4.0, 50: 8**0.5, 200 / 3: 2.0, 100: 1.0}),
        ((0.2, 0.2, 0.1), {0: 0.2, 30: 0.2, 50: 0.2, 75: 0.2 / 2**0.5, 100: 0.1}),
    ],
)
def test_lambda_falls_log_linearly_between_knots(
    lambdas: tuple[float, ...], at: dict[float, float]
) -> None:
    config = replace(PRESETS["photo"], lambdas=lambdas)
    assert {q: config.lambda_at(q) for q in at} == pytest.approx(at)
    values = [config.lambda_at(q / 4) for q in range(401)]
    assert values == sorted(values, reverse=True)
    assert all(a / b < 1.1 for a, b in zip(values, values[1:], strict=False))  # no jump


def test_grid_shapes_pad_to_the_coarsest_stride() -> None:
    shapes = PRESETS["vq-vae-2"].grid_shapes(17, 1)
    assert shapes == [(2, 1), (4, 2)]
