"""Pictures drawn from the prior: what temperature and top-p do to the draw."""

from pathlib import Path

import pytest

import vqcodec


@pytest.fixture(scope="module")
def model(tiny_weights: dict[str, Path]) -> str:
    return str(tiny_weights["vq-vae-2"])


def drawn(model: str, seed: int, **options: float) -> list[bytes]:
    pictures = vqcodec.sample(2, seed=seed, size=(32, 24), model=model, **options)  # type: ignore[arg-type]
    return [picture.tobytes() for picture in pictures]


@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"top_p": 0.7}])
def test_a_narrower_draw_is_random_and_repeatable(model: str, options: dict[str, float]) -> None:
    found = drawn(model, 1, **options)
    assert found == drawn(model, 1, **options) != drawn(model, 2, **options)
    assert found != drawn(model, 1)  # the options do something


def test_no_share_of_the_probability_leaves_the_likeliest_index(model: str) -> None:
    likeliest = drawn(model, 1, temperature=0)
    assert drawn(model, 1, top_p=0) == drawn(model, 2, top_p=0) == likeliest


def test_ends_of_the_scales_are_the_plain_draw(model: str) -> None:
    plain = drawn(model, 3)
    assert drawn(model, 3, top_p=1, temperature=1) == plain
