"""The whole way, picture to file and back, with tiny models; the shipped model where it matters."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import read_grids
from PIL import Image

import vqcodec
from vqcodec import codec, models
from vqcodec.bitstream import container
from vqcodec.errors import BitstreamError, CorruptChunk, ImageError, ModelError, TargetError
from vqcodec.limits import MAX_PIXELS
from vqcodec.networks import windows
from vqcodec.options import DecodeOptions
from vqcodec.picture import metrics
from vqcodec.prior import arithmetic as products
from vqcodec.training.drawings import draw

SIZES = [(1, 1), (1, 40), (40, 1), (16, 16), (17, 33), (63, 65)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    side = max(width, height, 32)
    return Image.fromarray(draw(np.random.default_rng(seed), side)[:height, :width])


def psnr_db(a: Image.Image, b: Image.Image) -> float:
    error = np.asarray(a.convert("RGB"), float) - np.asarray(b.convert("RGB"), float)
    return float(-10 * np.log10(max((error**2).mean(), 1e-9) / 255**2))


@pytest.fixture(params=["vq-vae", "vq-vae-2", "residual"])
def model(request: pytest.FixtureRequest, tiny_weights: dict[str, Path]) -> str:
    return str(tiny_weights[request.param])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("effort", [0, 1, 2])
def test_round_trip_of_any_size(model: str, size: tuple[int, int], effort: int) -> None:
    data = codec.compress(picture(*size), 60, effort=effort, model=model)
    codec.verify(data, model=model)
    decoded = codec.decompress(data, model=model)
    assert decoded.size == size and decoded.mode == "RGB"
    assert codec.decompress(data, model=model).tobytes() == decoded.tobytes()


def test_quality_is_monotonic_in_bytes_and_psnr(tiny_weights: dict[str, Path]) -> None:
    model, source = str(tiny_weights["residual"]), picture(128, 128, seed=3)
    files = [codec.compress(source, q, model=model) for q in (0, 20, 90)]
    sizes = [len(data) for data in files]
    quality = [psnr_db(codec.decompress(data, model=model), source) for data in files]
    assert sizes == sorted(sizes)
    assert quality == sorted(quality)


@pytest.mark.slow
def test_more_effort_is_a_better_trade() -> None:
    """Squared error + lambda x bits falls, lambda being what a bit must save; then the error does.

    Over four pictures: on one of them chance can be more than what a second effort gives.
    """
    config = models.load("photo").config
    errors, costs = np.zeros(3), np.zeros(3)
    for seed in range(4, 8):
        source = picture(160, 160, seed)
        for effort in (0, 1, 2):
            data = codec.compress(source, 50, effort=effort)
            error = np.asarray(codec.decompress(data), float) - np.asarray(source, float)
            errors[effort] += (error**2).sum() / 255**2
            costs[effort] += config.lambda_at(50) * 8 * len(data)
    costs += errors
    assert costs[1] < costs[0] and errors[2] < errors[1]


def test_a_file_that_does_not_decode_is_not_returned(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = str(tiny_weights["vq-vae"]), picture(32, 32)
    whole = codec.compress(source, 50, model=model, check=True)
    assert whole == codec.compress(source, 50, model=model)

    def wrong(grids: object) -> int:  # as if the encoder had meant other indices
        return 0

    monkeypatch.setattr(container, "checksum_indices", wrong)
    data = codec.compress(source, 50, model=model)
    monkeypatch.undo()
    monkeypatch.setattr(container, "pack", lambda fields: data)
    with pytest.raises(ModelError, match="does not decode here"):
        codec.compress(source, 50, model=model, check=True)


def test_large_pictures_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ImageError, match="over the limit of 1000 pixels"):
        codec.compress(picture(40, 40), max_pixels=1000)


def test_a_higher_limit_holds_to_the_end(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was let in is let out: by the check and by the search that decodes, too."""
    verify: Any = codec.verify
    monkeypatch.setitem(verify.__kwdefaults__, "max_pixels", 1000)
    init: Any = DecodeOptions.__init__
    smaller = tuple(1000 if value == MAX_PIXELS else value for value in init.__defaults__)
    monkeypatch.setattr(init, "__defaults__", smaller)
    options: dict[str, Any] = {"model": str(tiny_weights["vq-vae"]), "max_pixels": 2000}
    data = codec.compress(picture(40, 40), 50, check=True, **options)
    with pytest.raises(CorruptChunk, match="limit of 1000 pixels"):
        codec.verify(data, options["model"])
    decoded = codec.decompress_picture(data, DecodeOptions(**options)).rgb
    found = metrics.psnr_db(np.asarray(picture(40, 40)), decoded)
    assert codec.compress(picture(40, 40), psnr=found - 0.01, **options)


def test_fewer_levels_are_a_coarser_picture(tiny_weights: dict[str, Path]) -> None:
    model, source = str(tiny_weights["residual"]), picture(64, 64, seed=5)
    data = codec.compress(source, 100, model=model)
    count = container.parse(data).level_count
    scores = [
        psnr_db(codec.decompress(data, levels=n, model=model), source) for n in range(1, count + 1)
    ]
    assert scores[-1] == max(scores) and scores[0] < scores[-1]
    short = codec.compress(source, 100, levels=2, model=model)
    assert container.parse(short).level_count == 2 and len(short) < len(data)


def test_a_region_is_a_part_of_the_picture(tiny_weights: dict[str, Path], small_tiles: int) -> None:
    width, height, rng = 50, 40, np.random.default_rng(0)
    names = ["vq-vae", "vq-vae-2", "residual", "vq-vae"]
    for name, mode in zip(names, ["RGB", "L", "LA", "RGBA"], strict=True):
        model = str(tiny_weights[name])
        source = picture(width, height).convert(mode)
        if "A" in mode:
            source.putalpha(Image.linear_gradient("L").resize((width, height)))
        data = codec.compress(source, 80, effort=0, model=model)
        whole = codec.decompress(data, model=model)
        assert (whole.mode, whole.size) == (mode, (width, height))
        boxes = [(0, 0, width, height), (49, 39, 50, 40), (15, 15, 17, 33)]
        for _ in range(2):
            left, right = sorted(rng.choice(width + 1, 2, replace=False).tolist())
            top, bottom = sorted(rng.choice(height + 1, 2, replace=False).tolist())
            boxes.append((left, top, right, bottom))
        for left, top, right, bottom in boxes:
            region = left, top, right - left, bottom - top
            part = codec.decompress(data, region=region, model=model)
            assert (part.mode, part.size) == (mode, region[2:])
            assert part.tobytes() == whole.crop((left, top, right, bottom)).tobytes()


def test_tiles_of_full_size(model: str) -> None:
    source = Image.fromarray(draw(np.random.default_rng(0), 32)[:8]).resize((1100, 8))
    data = codec.compress(source, 60, effort=0, model=model)
    codec.verify(data, model=model)
    parsed = container.parse(data)
    assert len(parsed.parts) == 2 * container.part_count(parsed.level_count)
    whole = codec.decompress(data, model=model)
    assert whole.size == (1100, 8)
    part = codec.decompress(data, region=(520, 2, 100, 5), model=model)
    assert part.tobytes() == whole.crop((520, 2, 620, 7)).tobytes()
    coarse = codec.decompress(data, region=(520, 2, 100, 5), levels=1, model=model)
    assert (
        coarse.tobytes()
        == codec.decompress(data, levels=1, model=model).crop((520, 2, 620, 7)).tobytes()
    )


def test_every_truncation_gives_fewer_levels_or_an_error(tiny_weights: dict[str, Path]) -> None:
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(40, 24), 100, model=model)
    whole = read_grids(data, model=model).grids
    decoded_levels = set()
    for keep in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decompress(data[:keep], model=model)
        try:
            found = read_grids(data[:keep], partial=True, model=model).grids
        except BitstreamError:
            continue
        decoded_levels.add(len(found))
        for got, want in zip(found, whole, strict=False):
            assert got.dtype == np.uint16 and got.ndim == 3
            np.testing.assert_array_equal(got, want)
    assert len(decoded_levels) > 1  # some cuts left several levels


def test_every_flipped_bit_is_reported(tiny_weights: dict[str, Path]) -> None:
    model = str(tiny_weights["vq-vae-2"])
    data = codec.compress(picture(24, 24), 60, model=model)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BitstreamError, ModelError)):
            codec.verify(bytes(damaged), model=model)


def test_wrong_indices_are_an_error_and_not_a_picture(tiny_weights: dict[str, Path]) -> None:
    """A payload with a sound CRC that decodes to other indices than were coded."""
    model = str(tiny_weights["vq-vae"])
    parsed = container.parse(codec.compress(picture(32, 32), 60, model=model))
    entry = container.Part(parsed.parts[0].size, parsed.parts[0].check ^ 1)
    forged = container.Container(
        width=parsed.width,
        height=parsed.height,
        quality=parsed.quality,
        model_id=parsed.model_id,
        level_count=1,
        parts=(entry,),
        payload=parsed.payload,
    )
    with pytest.raises(CorruptChunk, match="checksum"):
        codec.decompress(container.pack(forged), model=model)


def test_alpha_grey_and_metadata_survive(tiny_weights: dict[str, Path]) -> None:
    model = str(tiny_weights["vq-vae"])
    rgba = picture(30, 20).convert("RGBA")
    opacity = Image.fromarray((np.arange(600) % 256).astype(np.uint8).reshape(20, 30))
    rgba.putalpha(opacity)
    decoded = codec.decompress(codec.compress(rgba, model=model), model=model)
    assert decoded.mode == "RGBA" and decoded.getchannel("A").tobytes() == opacity.tobytes()

    grey = picture(30, 20).convert("L")
    decoded = codec.decompress(codec.compress(grey, model=model), model=model)
    assert decoded.mode == "L" and decoded.size == (30, 20)

    source = io.BytesIO()
    profile = b"a colour profile" + b"RGB " + bytes(range(190))
    picture(30, 20).save(source, "PNG", icc_profile=profile)
    kept = codec.decompress(codec.compress(source.getvalue(), model=model), model=model)
    assert kept.info["icc_profile"] == profile
    stripped = codec.compress(source.getvalue(), model=model, strip=True)
    assert "icc_profile" not in codec.decompress(stripped, model=model).info


def test_other_formats_are_taken_when_asked_for(tiny_weights: dict[str, Path]) -> None:
    file, notes = io.BytesIO(), list[str]()
    picture(30, 20).save(file, "PCX")
    model = str(tiny_weights["vq-vae"])
    with pytest.raises(ImageError, match="PCX files are not read; convert it to PNG"):
        codec.compress(file.getvalue(), model=model)
    data = codec.compress(file.getvalue(), model=model, any_format=True, notes=notes.append)
    assert "Pillow" in notes[0] and codec.decompress(data, model=model).size == (30, 20)


@pytest.mark.parametrize(
    "bad",
    [
        *({"quality": -1}, {"quality": 101}, {"effort": 3}, {"levels": 0}),
        *({"size": 0}, {"size": 9, "psnr": 9}, {"quality": 50, "bpp": 1}),
        *({"size": 10**400}, {"bpp": 1e200}, {"psnr": 1e-200}, {"bpp": float("nan")}),
    ],
)
def test_arguments_out_of_range(tiny_weights: dict[str, Path], bad: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        codec.compress(picture(8, 8), model=str(tiny_weights["vq-vae"]), **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("effort", [0, 1])
def test_targets_are_hit(tiny_weights: dict[str, Path], effort: int) -> None:
    """As near as a model of a few steps allows, whose bytes jump from one quality to the next."""
    model, source = str(tiny_weights["residual"]), picture(160, 128, seed=3)
    found: list[float] = []
    notes: list[str] = []

    def compress(quality: float | None = None, **target: Any) -> bytes:
        found.clear()
        listen: dict[str, Any] = {"found": found.append, "notes": notes.append}
        return codec.compress(source, quality, effort=effort, model=model, **listen, **target)

    low, high = len(compress(0)), len(compress(100))
    assert found == [100]
    size = round((low * high) ** 0.5)
    data = compress(size=size)
    assert low <= len(data) <= size
    assert data == compress(found[0])
    assert len(compress(size=9 * high)) == high and found == [100]
    bpp = 8 * size / (160 * 128)
    got = 8 * len(compress(bpp=bpp)) / (160 * 128)
    assert got == pytest.approx(bpp, rel=0.0201) or "is the nearest to" in notes[0]
    psnr = psnr_db(codec.decompress(data, model=model), source) + 0.1
    closer = codec.decompress(compress(psnr=psnr), model=model)
    assert psnr <= psnr_db(closer, source)


def test_targets_out_of_reach_are_errors(tiny_weights: dict[str, Path]) -> None:
    model, source = str(tiny_weights["vq-vae"]), picture(40, 24)
    smallest = len(codec.compress(source, 0, model=model))
    with pytest.raises(TargetError, match=f"quality 0 takes {smallest} bytes"):
        codec.compress(source, size=smallest - 1, model=model)
    with pytest.raises(TargetError, match="quality 100 gives"):
        codec.compress(source, bpp=500, model=model)
    with pytest.raises(TargetError, match="quality 100 gives"):
        codec.compress(source, psnr=99, model=model)


def test_psnr_counts_what_is_decoded(tiny_weights: dict[str, Path]) -> None:
    """Of a grey picture with opacity: the colours below it, as grey as they are decoded."""
    model, source = str(tiny_weights["residual"]), picture(64, 64, seed=5).convert("LA")
    source.putalpha(
        Image.fromarray(np.arange(4096, dtype=np.uint16).astype(np.uint8).reshape(64, 64))
    )
    first = codec.decompress(codec.compress(source, 40, model=model), model=model)
    wanted = psnr_db(first.getchannel("L"), source.getchannel("L"))
    decoded = codec.decompress(codec.compress(source, psnr=wanted, model=model), model=model)
    assert decoded.mode == "LA"
    assert psnr_db(decoded.getchannel("L"), source.getchannel("L")) >= wanted - 1e-6


def test_progress_of_a_search_never_falls(tiny_weights: dict[str, Path]) -> None:
    shares: list[float] = []
    model, source = str(tiny_weights["residual"]), picture(64, 64)
    codec.compress(source, psnr=1, model=model, progress=shares.append)
    assert len(shares) > 3 and shares == sorted(shares) and min(shares) >= 0 and max(shares) <= 1


def test_decompressing_no_levels_is_the_callers_mistake(tiny_weights: dict[str, Path]) -> None:
    model = str(tiny_weights["vq-vae-2"])
    data = codec.compress(picture(8, 8), model=model)
    for levels in (0, -1):
        with pytest.raises(ValueError, match="levels"):
            codec.decompress(data, levels=levels, model=model)


def test_lack_of_memory_is_a_memory_error(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*arguments: object) -> None:
        torch.empty(10**15)  # torch raises a RuntimeError

    monkeypatch.setattr(windows, "encode", greedy)
    with pytest.raises(MemoryError):
        codec.compress(picture(8, 8), model=str(tiny_weights["vq-vae"]))


def test_a_file_of_another_model_is_refused(tiny_weights: dict[str, Path]) -> None:
    data = codec.compress(picture(16, 16), model=str(tiny_weights["vq-vae"]))
    with pytest.raises(ModelError):
        codec.decompress(data)
    with pytest.raises(ModelError):
        codec.decompress(data, model=str(tiny_weights["residual"]))


def test_samples_are_reproducible_and_different(tiny_weights: dict[str, Path]) -> None:
    model = str(tiny_weights["residual"])
    first = codec.sample(3, seed=1, size=(40, 24), model=model)
    again = codec.sample(3, seed=1, size=(40, 24), model=model)
    other = codec.sample(3, seed=2, size=(40, 24), model=model)
    assert [p.size for p in first] == [(40, 24)] * 3
    assert [p.tobytes() for p in first] == [p.tobytes() for p in again]
    assert len({p.tobytes() for p in first + other}) == 6


@pytest.mark.parametrize(
    "bad",
    [
        *({"temperature": -1}, {"temperature": float("nan")}, {"top_p": 2}, {"top_p": -0.1}),
        *({"quality": 30.5}, {"quality": 101}, {"size": (0, 8)}),
    ],
)
def test_samples_out_of_range(tiny_weights: dict[str, Path], bad: dict[str, Any]) -> None:
    for count, options in ((1, bad), (0, {})):
        with pytest.raises((TypeError, ValueError), match=r"must be|count"):
            codec.sample(count, model=str(tiny_weights["vq-vae"]), **options)


def test_cold_samples_take_the_likeliest_index(tiny_weights: dict[str, Path]) -> None:
    model = str(tiny_weights["vq-vae"])
    one = codec.sample(1, seed=1, temperature=0, size=(16, 16), model=model)
    two = codec.sample(1, seed=2, temperature=0, size=(16, 16), model=model)
    assert one[0].tobytes() == two[0].tobytes()


def test_one_arithmetic_checks_the_other(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not products.int8_is_right():
        pytest.skip("torch's sums of int8 are not right here, and not used")
    asked, prior_in = list[str](), models.Model.prior_in

    def spy(self: models.Model, arithmetic: products.Arithmetic) -> Any:
        asked.append(arithmetic.name)
        return prior_in(self, arithmetic)

    monkeypatch.setattr(products, "fast_int8", lambda: True)
    monkeypatch.setattr(models.Model, "prior_in", spy)
    model = str(tiny_weights["residual"])
    data = codec.compress(picture(40, 40), 70, effort=0, model=model)
    assert set(asked) == {"int8"}
    asked.clear()
    codec.verify(data, model)
    assert set(asked) == {"float32"}
    asked.clear()
    codec.decompress(data, model=model)
    assert set(asked) == {"int8"}


def test_shipped_model_codes_a_drawing() -> None:
    source = picture(192, 128, seed=7)
    sizes, scores = [], []
    for quality in (10, 50, 90):
        data = vqcodec.compress(source, quality=quality)
        vqcodec.verify(data)
        sizes.append(len(data))
        scores.append(psnr_db(vqcodec.decompress(data), source))
    assert sizes == sorted(sizes) and scores == sorted(scores)
    assert sizes[0] < 192 * 128 * 3 / 40  # not a figure of merit: that it compresses at all


def test_tune_chooses_the_shipped_model(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"psnr": str(tiny_weights["vq-vae"]), "ssim": str(tiny_weights["residual"])}
    monkeypatch.setattr(models, "TUNED", names)
    picture = Image.new("RGB", (40, 30), (90, 120, 60))
    for tune in (None, "psnr", "ssim"):
        data = vqcodec.compress(picture, tune=tune)
        assert container.parse(data).model_id == models.load(names[tune or "psnr"]).model_id
    wrong_options: list[dict[str, Any]] = [
        {"tune": "vmaf"},
        {"tune": "ssim", "model": names["ssim"]},
    ]
    for wrong in wrong_options:
        with pytest.raises(ValueError, match="tune"):
            vqcodec.compress(picture, **wrong)
