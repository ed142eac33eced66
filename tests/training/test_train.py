"""Runs of a few steps: what they write, that they learn, that they resume."""

import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, same_weights
from PIL import Image

from vqcodec import models
from vqcodec.config import PRESETS, Tuning
from vqcodec.encoder import code_lengths as lengths
from vqcodec.errors import ImageError, ModelError
from vqcodec.networks.quantizer import Quantizer
from vqcodec.options import ignore
from vqcodec.prior.network import Prior
from vqcodec.training import objective, train
from vqcodec.training import run as train_run
from vqcodec.training.codebook_learning import CodebookLearner
from vqcodec.training.codebooks import Codebooks
from vqcodec.training.data import CropSource, drawn_pictures
from vqcodec.training.drawings import draw
from vqcodec.training.loop import Loop, deferred_interrupts
from vqcodec.training.objective import (
    AutoencoderObjective,
    DecoderObjective,
    prior_loss,
    proxy_bits,
    spread_quality,
)
from vqcodec.training.run import Run


def options(tmp_path: Path, **changes: Any) -> train.TrainOptions:
    base = train.TrainOptions(
        output=tmp_path / "w.safetensors",
        config=TINY["vq-vae-2"],
        steps=120,
        batch=4,
        crop=64,
        prior_share=0.5,
    )
    return replace(base, **changes)


def test_a_run_learns_and_logs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train.run(options(tmp_path, steps=200), ignore)
    log = (tmp_path / "w.safetensors.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in log]
    phases = {name: [r for r in records if r["phase"] == name] for name in ("autoencoder", "prior")}
    first, last = phases["autoencoder"][0], phases["autoencoder"][-1]
    assert {"psnr", "bpp", "marginal_bits", "perplexity", "dead_codes", "step"} <= last.keys()
    assert len(last["psnr"]) == 4 and len(last["perplexity"]) == 2
    assert first["step"] == 50 and last["step"] == 100
    bits = [sum(r["bits_per_index"]) for r in phases["prior"]]
    assert bits[-1] < bits[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors", "w.safetensors.jsonl"]


def test_turns_with_the_same_crops_are_for_different_levels() -> None:
    config = PRESETS["photo"]
    turns = list(train._turns(config))
    assert len(turns) == train.TURNS
    coarse = [k for levels in turns for k in levels if config.levels[k].stride == 16]
    fine = [k for levels in turns for k in levels if config.levels[k].stride == 8]
    assert sorted(coarse) == [0, 1, 2, 3]
    assert len(set(fine)) == len(fine) == 2 * train.TURNS
    orders = {tuple(map(tuple, train._turns(config))) for _ in range(9)}
    assert len(orders) > 1
    assert list(train._turns(TINY["vq-vae-2"])) == [[0, 1]] * train.TURNS


def test_training_for_ssim_goes_on_from_weights_for_psnr(
    tmp_path: Path, tiny_weights: dict[str, Path]
) -> None:
    init = tiny_weights["residual"]
    train.run(options(tmp_path, config=None, init=init, tune="ssim", steps=20), ignore)
    model = models.Model(tmp_path / "w.safetensors")
    assert (models.Model(init).config.tune, model.config.tune) == ("psnr", "ssim")
    assert not same_weights(init, tmp_path / "w.safetensors")


@pytest.mark.parametrize("continued", [False, True])
def test_codes_are_chosen_after_steps(
    tmp_path: Path,
    tiny_weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    continued: bool,
) -> None:
    """For the networks from half of a first run on, or where they were trained before."""
    asked: list[int] = []

    def note(*arguments: Any) -> torch.Tensor:
        latent: torch.Tensor = arguments[2]
        asked.append(arguments[5])
        return latent

    for module in (objective, train):
        monkeypatch.setattr(module, "refine_as_coding", note)
    init = tiny_weights["vq-vae-2"] if continued else None
    train.run(options(tmp_path, init=init, steps=16), ignore)
    assert asked[8:] == [objective.REFINEMENT_STEPS] * 8  # of the prior
    assert (
        asked[:8]
        == [objective.REFINEMENT_STEPS if continued else 0] * 4 + [objective.REFINEMENT_STEPS] * 4
    )


@pytest.mark.parametrize("name", TINY)
def test_the_prior_learns_codes_chosen_by_its_own_lengths(
    tmp_path: Path, tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As coding chooses them; those of levels that a file does not have by marginal ones."""
    model = models.Model(tiny_weights[name])
    pictures = [draw(np.random.default_rng(k), 96) for k in range(2)]
    state = Run(options(tmp_path), model.config, CropSource(pictures, 0), ignore)
    train._start_from(state, model)
    count = len(model.config.levels)
    for k in range(count):  # what is marginal is no longer what the prior says
        state.prior.tables(k).bias.data += 99 * torch.randn_like(state.prior.tables(k).bias)
    x, quality = state.crops.batch(2, 64), torch.tensor([2, 2])
    spent = []
    monkeypatch.setitem(lengths.LONGER, "psnr", 0.0)
    for share in (0.0, 1.0):
        monkeypatch.setitem(lengths.SHARES, "psnr", (share, share))
        grids = train._coded(state, x, quality, torch.tensor([1, count]))
        with torch.no_grad():
            each = [state.prior.coded_bits(grids, quality, k)[1].item() for k in range(count)]
        spent.append(each[0])
    assert spent[1] < spent[0]
    found = train._lengths(state, grids, quality, torch.tensor([1, count]))
    assert found and all(level.slices == 1 for level in model.config.levels[: len(found)])
    assert all(level.slices > 1 for level in model.config.levels[len(found) :][:1])
    for level, bits in enumerate(found):
        used = bits.gather(2, grids[level].flatten(1, 2)).sum((1, 2))
        assert used[1].item() == pytest.approx(each[level], rel=0.02, abs=0.5)
        marginal = state.quantizer.marginal_bits(level, quality)
        assert torch.equal(bits[0], marginal[0].expand_as(bits[0])) == (level > 0)


def test_steps_in_training_lower_the_error(tiny_weights: dict[str, Path]) -> None:
    x = torch.from_numpy(np.stack([draw(np.random.default_rng(k), 64) for k in range(4)]))
    x = x.permute(0, 3, 1, 2).float() / 255
    errors = []
    for steps in (0, objective.REFINEMENT_STEPS):
        model = models.Model(tiny_weights["residual"])
        quality = torch.full((4,), 60.0)
        torch.manual_seed(0)  # the same step of all levels
        learner = CodebookLearner(model.quantizer)
        _, parts = AutoencoderObjective()(model.autoencoder, learner, x, quality, steps)
        errors.append(float(parts["mse"].mean()))
    assert errors[1] < 0.99 * errors[0]


@pytest.mark.parametrize("continued", [False, True])
def test_a_resumed_run_ends_like_one_that_was_not_stopped(
    tmp_path: Path,
    tiny_weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    continued: bool,
) -> None:
    class Killed(Exception):
        pass

    monkeypatch.setattr(train_run, "CHECKPOINT_MINUTES", 0.0)
    init = tiny_weights["vq-vae-2"] if continued else None
    straight = options(tmp_path / "a", init=init)
    stopped = options(tmp_path / "b", init=init)
    for each in (straight, stopped):
        each.output.parent.mkdir()
    train.run(straight, ignore)

    ends: list[tuple[str, int]] = [("autoencoder", 50), ("prior", 50)]
    for at in ends:

        def kill(record: dict[str, Any], at: tuple[str, int] = at) -> None:
            if (record["phase"], record.get("step")) == at:
                raise Killed

        resume = at[0] == "prior"
        with pytest.raises(Killed):
            train.run(replace(stopped, resume=resume), kill)
        assert not stopped.output.exists()
    train.run(replace(stopped, resume=True), ignore)
    assert same_weights(straight.output, stopped.output)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: what runs in the background of a shell ignores it."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(train, "LOG_STEPS", 2)
    straight, stopped = (options(tmp_path / name, steps=12) for name in "ab")
    for each in (straight, stopped):
        each.output.parent.mkdir()
    train.run(straight, ignore)

    ends: list[tuple[str, int]] = [("autoencoder", 4), ("prior", 2)]
    for at in ends:
        notes: list[str] = []

        def press(
            record: dict[str, Any], at: tuple[str, int] = at, notes: list[str] = notes
        ) -> None:
            notes.append(record.get("note", ""))
            if (record["phase"], record.get("step")) == at:
                signal.raise_signal(number)

        with pytest.raises(KeyboardInterrupt):
            train.run(replace(stopped, resume=at[0] == "prior"), press)
        assert notes[-1] == f"stopped after step {at[1]}; --resume goes on"
        assert signal.getsignal(number) is signal.default_int_handler
    train.run(replace(stopped, resume=True), ignore)
    assert same_weights(straight.output, stopped.output)

    def press_twice(record: dict[str, Any]) -> None:
        if record.get("step") == 2:
            signal.raise_signal(number)
            signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt):
        train.run(stopped, press_twice)
    assert not list(stopped.output.parent.glob("*.checkpoint"))


def test_who_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupts() as asked:
            signal.raise_signal(signal.SIGINT)
        assert not asked.is_set() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_resumed_run_knows_what_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(record: dict[str, Any]) -> None:
        if "step" in record:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "LOG_STEPS", 1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(draw(np.random.default_rng(0), 96)).save(folder / "a.png")
    begun = options(tmp_path, data=folder, minutes=7.0, prior_share=0.3, seed=5)
    with pytest.raises(KeyboardInterrupt):
        train.run(begun, stop)
    resumed = train.TrainOptions.resumed(begun.output, minutes=9.0)
    assert (resumed.data, resumed.resume) == (folder.resolve(), True)
    assert (resumed.minutes, resumed.prior_share, resumed.seed, resumed.batch) == (9.0, 0.3, 5, 4)
    with pytest.raises(ModelError, match="resume"):
        train.TrainOptions.resumed(tmp_path / "other.safetensors")


def test_training_goes_on_from_a_weights_file(
    tmp_path: Path, tiny_weights: dict[str, Path]
) -> None:
    start = tiny_weights["residual"]
    train.run(options(tmp_path, config=None, init=start, steps=2, prior_share=1.0), ignore)
    before, after = models.Model(start), models.Model(tmp_path / "w.safetensors")
    assert after.config.levels == before.config.levels
    changed = {
        ".".join(name.split(".")[:2])
        for name, tensor in before.tensors.items()
        if not np.array_equal(tensor, after.tensors[name])
    }
    # Only what comes after the encoder.
    kept = ("encoder_in", "encoder_blocks", "encoder_out", "embedding", "klt", "sigma")
    assert "autoencoder.fine_blocks" in changed and "quantizer.codebook_0" in changed
    assert not any(after.tensors[f"quantizer.codebook_{k}"][:, 0].any() for k in range(5))
    assert not changed & {f"autoencoder.{name}" for name in kept}
    assert any(
        not np.array_equal(before.tensors[k], after.tensors[k])
        for k in before.tensors
        if k.startswith("training.prior.")
    )


def test_networks_that_were_trained_before_take_smaller_steps(
    tmp_path: Path, tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks: list[float] = []

    class Listening(Loop):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            peaks.append(self.optimizer.param_groups[0]["peak"])

    monkeypatch.setattr(train, "Loop", Listening)
    config = models.Model(tiny_weights["residual"]).config
    train.run(options(tmp_path, config=config, steps=1), ignore)
    train.run(options(tmp_path, config=None, init=tiny_weights["residual"], steps=1), ignore)
    assert peaks[2:] == [pytest.approx(train.CONTINUED * peak) for peak in peaks[:2]]


def test_a_resumed_run_keeps_the_prior_it_started_from(
    tmp_path: Path, tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def kill(record: dict[str, Any]) -> None:
        if record.get("step") == 4:  # the third step wrote a checkpoint
            raise Killed

    monkeypatch.setattr(train_run, "CHECKPOINT_MINUTES", 0.0)
    monkeypatch.setattr(train, "LOG_STEPS", 2)
    start = tiny_weights["residual"]
    begun = options(tmp_path, config=None, init=start, steps=4, prior_share=0.0)
    with pytest.raises(Killed):
        train.run(begun, kill)
    train.run(replace(begun, init=None, resume=True), ignore)
    before, after = models.Model(start).tensors, models.Model(begun.output).tensors
    names = [name for name in before if name.startswith("training.prior.")]
    assert names and all(np.array_equal(before[name], after[name]) for name in names)


def test_a_new_run_leaves_no_checkpoint_of_an_old_one(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(record: dict[str, Any]) -> None:
        raise Killed

    old = tmp_path / "w.safetensors.checkpoint"
    old.write_bytes(b"of an earlier run")
    with pytest.raises(Killed):
        train.run(options(tmp_path), kill)
    assert not old.exists()


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "deeper"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(4):
        Image.fromarray(draw(rng, 96)).save(folder / f"{k}.png")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    # Large enough for the crops of the autoencoder and not for those of the prior.
    Image.new("RGB", (70, 300)).save(folder / "small.png")
    notes: list[str] = []

    def listen(record: dict[str, Any]) -> None:
        notes.append(record.get("note", ""))

    train.run(options(tmp_path, data=tmp_path / "pictures", steps=4), listen)
    assert (tmp_path / "w.safetensors").exists()
    assert any("2 files left out" in note for note in notes)


def test_bad_requests_are_clear(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no picture"):
        train.run(options(tmp_path, data=tmp_path / "empty"), ignore)
    with pytest.raises(ModelError, match="preset"):
        train.run(options(tmp_path, config=None, preset="nothing"), ignore)
    with pytest.raises(ModelError, match="resume"):
        train.run(options(tmp_path, resume=True), ignore)


def test_proxy_counts_bits_above_the_water_level() -> None:
    lambdas = torch.tensor([0.01, 0.1])[:, None, None]
    quiet, loud = torch.full((2, 3, 4, 4), 1e-4), torch.full((2, 3, 4, 4), 1.0)
    assert (proxy_bits(quiet, lambdas) < 0.01).all()
    bits = proxy_bits(loud, lambdas)
    assert bits[0] > bits[1] > 48
    doubled = proxy_bits(2 * loud, lambdas) - bits
    torch.testing.assert_close(doubled, torch.full((2,), 48.0), atol=3.0, rtol=0)


def test_prior_loss_leaves_out_levels_that_a_file_would_not_have() -> None:
    torch.manual_seed(0)
    config = TINY["residual"]
    prior, quality = Prior(config), torch.tensor([10, 50, 90])
    grids = [
        torch.randint(level.codebook_size, (3, *shape, level.slices))
        for level, shape in zip(config.levels, config.grid_shapes(32, 48), strict=True)
    ]
    coded = torch.tensor([1, 3, 5])
    loss, per_index = prior_loss(prior, grids, quality, [0, 2, 4], coded, 32 * 48)
    bits = {k: prior.coded_bits(grids, quality, k)[coded > k] for k in (0, 2, 4)}
    want = sum(float(b.detach().sum()) for b in bits.values()) / (3 * 32 * 48)
    assert loss.item() == pytest.approx(want, rel=0.01)  # bfloat16
    assert {k: len(b) for k, b in bits.items()} == {0: 3, 2: 2, 4: 1}
    assert per_index == pytest.approx(
        {k: float(b.detach().mean()) / grids[k][0].numel() for k, b in bits.items()}, rel=0.01
    )
    loss, per_index = prior_loss(prior, grids, quality, [0, 4], coded - 1, 32 * 48)
    assert list(per_index) == [0]
    loss.backward()
    grad = prior.tables(0).bias.grad
    assert grad is not None
    used = quality[1:] * 16 // 101  # not the row of the quality that codes no level
    assert grad.abs().sum((1, 2)).nonzero().flatten().tolist() == used.tolist()


@pytest.mark.parametrize(("tune", "say"), [("psnr", 2.0), ("ssim", 4.0)])
def test_the_say_of_a_crop_goes_with_its_error(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tune: Tuning, say: float
) -> None:
    """Its square root for `psnr`: a crop of four times the usual error counts twice."""
    model = models.Model(tiny_weights["vq-vae-2"])
    quantizer = Quantizer(replace(model.config, tune=tune))
    quantizer.load_state_dict(model.quantizer.state_dict(), strict=False)
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([20, 80])
    grids, coded = (
        quantizer(torch.zeros(2, quantizer.dim, 8, 8), quality).grids,
        torch.tensor([1, 2]),
    )
    monkeypatch.setattr(objective, "PARTIAL_LEVELS", 0.0)
    decoder = DecoderObjective()
    codebooks = Codebooks(quantizer)
    arguments = model.autoencoder, quantizer, x, grids, quality, coded, codebooks()
    assert decoder(*arguments)[0].item() == pytest.approx(1)
    decoder.usual -= math.log(4)
    loss, mse = decoder(*arguments)
    assert loss.item() == pytest.approx(say, rel=1e-3) and mse.shape == (2,)
    monkeypatch.setattr(objective, "PARTIAL_LEVELS", 1.0)
    before = decoder.usual.clone()
    assert decoder(*arguments)[0].item() == pytest.approx(1)
    assert torch.equal(decoder.usual.nan_to_num(), before.nan_to_num())


def test_codebooks_learn_what_brings_the_picture_closer(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "PARTIAL_LEVELS", 0.0)
    torch.manual_seed(0)
    model = models.Model(tiny_weights["residual"])
    quantizer = Quantizer(model.config)
    quantizer.load_state_dict(model.quantizer.state_dict(), strict=False)
    count = len(model.config.levels)
    x = CropSource(drawn_pictures(4, 80, 0), 0).batch(4, 64)
    quality, coded = torch.full((4,), 80), torch.full((4,), count)
    latent = model.autoencoder.encode(x, quality)
    grids = quantizer(latent, quality).grids
    codebooks, before = Codebooks(quantizer), quantizer.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    codebooks.write(quantizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())

    optimizer, errors = torch.optim.Adam(codebooks.parameters(), lr=0.03), []
    for _ in range(20):
        optimizer.zero_grad()
        arguments = model.autoencoder, quantizer, x, grids, quality, coded, codebooks()
        loss, mse = DecoderObjective()(*arguments)
        loss.backward()
        optimizer.step()
        errors.append(float(mse.mean()))
    codebooks.write(quantizer)
    assert errors[-1] < 0.9 * errors[0]
    for level in range(count):
        found = quantizer.buffer("codebook", level)
        assert not found[:, 0].any()
        assert not found.equal(before[f"codebook_{level}"])


def test_spread_quality_covers_the_scale() -> None:
    torch.manual_seed(0)
    quality = spread_quality(10)
    assert ((quality >= torch.arange(10) * 10) & (quality <= torch.arange(1, 11) * 10)).all()


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_here_is_refused(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = train.TrainOptions(output=tmp_path / "w.safetensors", steps=1, device=device)
    with pytest.raises(ModelError, match=f"device '{device}' is not here"):
        train.run(options, print)
    assert not list(tmp_path.iterdir())


def test_device_and_batch_are_decided_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpu, device, batch in ((False, "cpu", 8), (True, "cuda", 64)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        settled = train._settled(train.TrainOptions(output=tmp_path / "w.safetensors"))
        assert (settled.device, settled.batch) == (device, batch)


def test_what_stops_before_its_first_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    def stop_halfway(record: dict[str, Any]) -> None:
        if record["phase"] == "start-up":
            told.append(record["progress"])
            if record["progress"] == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.run(options(tmp_path), stop_halfway)
    assert told == [0, 0.5, 1]
    assert list(tmp_path.iterdir()) == []
