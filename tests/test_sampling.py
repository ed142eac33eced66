"""Drawing pictures: in batches that bound memory and that no picture depends on."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from helpers import GOLDEN

import vqcodec
from vqcodec import sampling
from vqcodec.options import SampleOptions
from vqcodec.prior.wavefront_scan import scan

MODEL = str(GOLDEN / "v0" / "tiny.safetensors")


def drawn(count: int, **options: Any) -> list[bytes]:
    asked = SampleOptions(count, size=(40, 24), model=MODEL, **options)
    return [picture.rgb.tobytes() for picture in sampling.draw_pictures(asked)]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_p": 0.9}, {"quality": 90}])
def test_a_picture_is_the_same_in_any_batch(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    together = drawn(7, seed=3, **options)
    assert len(set(together)) == 7
    assert drawn(4, seed=3, **options) == together[:4]
    for batch in (1, 2):
        monkeypatch.setattr(sampling, "PIXELS", batch * 40 * 24 + 1)
        assert drawn(7, seed=3, **options) == together


def test_seeds_and_numbers_are_not_mixed_up() -> None:
    assert len({*drawn(3, seed=0), *drawn(3, seed=1), *drawn(3, seed=2)}) == 9


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        batches.append(options["batch"])
        return scan(*arguments, **options)

    monkeypatch.setattr(sampling, "scan", spy)
    monkeypatch.setattr(sampling, "PIXELS", 3 * 40 * 24)
    assert len(drawn(7)) == 7 and batches == [3, 3, 1]
    monkeypatch.setattr(sampling, "PIXELS", 1)  # a single picture is drawn, however large
    assert len(drawn(2)) == 2 and batches[3:] == [1, 1]


def test_memory_does_not_grow_with_the_number_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PIXELS", 8 * 64 * 64)

    def peak(count: int) -> int:
        pictures = sampling.draw_pictures(SampleOptions(count, size=(64, 64), model=MODEL))
        tracemalloc.start()
        try:
            for _ in pictures:
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    drawn(1)  # loads what is loaded once
    assert peak(64) < 1.3 * peak(8)


@pytest.fixture(scope="module")
def model(tiny_weights: dict[str, Path]) -> str:
    return str(tiny_weights["vq-vae-2"])


def narrowed(model: str, seed: int, **options: float) -> list[bytes]:
    pictures = vqcodec.sample(2, seed=seed, size=(32, 24), model=model, **options)  # type: ignore[arg-type]
    return [picture.tobytes() for picture in pictures]


@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"top_p": 0.7}])
def test_a_narrower_draw_is_random_and_repeatable(model: str, options: dict[str, float]) -> None:
    found = narrowed(model, 1, **options)
    assert found == narrowed(model, 1, **options) != narrowed(model, 2, **options)
    assert found != narrowed(model, 1)  # the options do something


def test_no_share_of_the_probability_leaves_the_likeliest_index(model: str) -> None:
    likeliest = narrowed(model, 1, temperature=0)
    assert narrowed(model, 1, top_p=0) == narrowed(model, 2, top_p=0) == likeliest


def test_ends_of_the_scales_are_the_plain_draw(model: str) -> None:
    plain = narrowed(model, 3)
    assert narrowed(model, 3, top_p=1, temperature=1) == plain
