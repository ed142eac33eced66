"""Runs of a few steps: what they write, that they learn, that they resume."""

import ast
import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, same_weights
from PIL import Image
from tiny_runs import tiny_options as options

from vqcodec import models
from vqcodec.config import PRESETS
from vqcodec.errors import ImageError, ModelError
from vqcodec.options import ignore
from vqcodec.training import journal, phases, train
from vqcodec.training import run as train_run
from vqcodec.training.drawings import draw
from vqcodec.training.loop import Loop, deferred_interrupts
from vqcodec.training.run import KEPT, TrainOptions

OF_THE_START = {"output", "preset", "tune", "resume", "init", "config"}
OF_THE_MACHINE = {"threads", "device"}


@pytest.fixture(autouse=True)
def records_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is."""
    monkeypatch.setattr(journal, "LOG_SECONDS", math.inf)


class Killed(Exception):
    pass


def kill_at(phase: str, step: int) -> Callable[[dict[str, Any]], None]:
    def log(record: dict[str, Any]) -> None:
        if (record["phase"], record.get("step")) == (phase, step):
            raise Killed

    return log


@pytest.mark.slow
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
    names = {"w.safetensors" + suffix for suffix in ("", ".jsonl", ".checkpoint")}
    assert {p.name for p in tmp_path.iterdir()} == names


@pytest.mark.slow
def test_training_for_ssim_goes_on_from_weights_for_psnr(
    tmp_path: Path, tiny_weights: dict[str, Path]
) -> None:
    init = tiny_weights["residual"]
    train.run(options(tmp_path, config=None, init=init, tune="ssim", steps=20), ignore)
    model = models.Model(tmp_path / "w.safetensors")
    assert (models.Model(init).config.tune, model.config.tune) == ("psnr", "ssim")
    assert not same_weights(init, tmp_path / "w.safetensors")


@pytest.mark.parametrize("continued", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_resumed_run_ends_like_one_that_was_not_stopped(
    tmp_path: Path,
    tiny_weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    continued: bool,
) -> None:
    monkeypatch.setattr(train_run, "CHECKPOINT_MINUTES", 0.0)
    init = tiny_weights["vq-vae-2"] if continued else None
    monkeypatch.setattr(journal, "LOG_STEPS", 5)
    straight, stopped = (options(tmp_path / name, init=init, steps=24) for name in "ab")
    for each in (straight, stopped):
        each.output.parent.mkdir()
    train.run(straight, ignore)

    for phase in ("autoencoder", "prior"):
        with pytest.raises(Killed):
            train.run(replace(stopped, resume=phase == "prior"), kill_at(phase, 10))
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
    monkeypatch.setattr(journal, "LOG_STEPS", 2)
    straight, stopped = (options(tmp_path / name, steps=12) for name in "ab")
    for each in (straight, stopped):
        each.output.parent.mkdir()
    train.run(straight, ignore)

    stops: list[tuple[str, int]] = [("autoencoder", 4), ("prior", 2)]
    for at in stops:
        stopped_after: list[int | None] = []

        def press(
            record: dict[str, Any],
            at: tuple[str, int] = at,
            stopped_after: list[int | None] = stopped_after,
        ) -> None:
            stopped_after.append(record.get("stopped"))
            if (record["phase"], record.get("step")) == at:
                signal.raise_signal(number)

        with pytest.raises(KeyboardInterrupt):
            train.run(replace(stopped, resume=at[0] == "prior"), press)
        assert stopped_after[-1] == at[1]
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

    monkeypatch.setattr(journal, "LOG_STEPS", 1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(draw(np.random.default_rng(0), 96)).save(folder / "a.png")
    begun = options(tmp_path, data=folder, minutes=7.0, prior_share=0.3, seed=5)
    with pytest.raises(KeyboardInterrupt):
        train.run(begun, stop)
    resumed = TrainOptions.resumed(begun.output, minutes=9.0)
    assert (resumed.data, resumed.resume) == (folder.resolve(), True)
    assert (resumed.minutes, resumed.prior_share, resumed.seed, resumed.batch) == (9.0, 0.3, 5, 4)
    with pytest.raises(ModelError, match="resume"):
        TrainOptions.resumed(tmp_path / "other.safetensors")


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

    monkeypatch.setattr(train_run, "Loop", Listening)
    config = models.Model(tiny_weights["residual"]).config
    train.run(options(tmp_path, config=config, steps=1), ignore)
    train.run(options(tmp_path, config=None, init=tiny_weights["residual"], steps=1), ignore)
    fresh, continued = peaks[:2], peaks[3:5]  # the third phase is the same in both
    assert continued == [pytest.approx(phases.CONTINUED * peak) for peak in fresh]


def test_a_resumed_run_keeps_the_prior_it_started_from(
    tmp_path: Path, tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_run, "CHECKPOINT_MINUTES", 0.0)
    monkeypatch.setattr(journal, "LOG_STEPS", 2)
    start = tiny_weights["residual"]
    begun = options(tmp_path, config=None, init=start, steps=4, prior_share=0.0)
    with pytest.raises(Killed):
        train.run(begun, kill_at("autoencoder", 4))  # the third step wrote a checkpoint
    train.run(replace(begun, init=None, resume=True), ignore)
    before, after = models.Model(start).tensors, models.Model(begun.output).tensors
    names = [name for name in before if name.startswith("training.prior.")]
    assert names and all(np.array_equal(before[name], after[name]) for name in names)


def test_a_new_run_leaves_no_checkpoint_of_an_old_one(tmp_path: Path) -> None:
    def kill(record: dict[str, Any]) -> None:
        raise Killed

    old = tmp_path / "w.safetensors.checkpoint"
    old.write_bytes(b"of an earlier run")
    with pytest.raises(Killed):
        train.run(options(tmp_path), kill)
    assert not old.exists()


def test_a_preset_that_is_not_that_of_the_weights_is_refused(
    tmp_path: Path, tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    init = tiny_weights["residual"]
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY["residual"], name="tiny", tune="ssim"))
    asked = options(tmp_path, init=init, steps=0)
    with pytest.raises(ModelError, match="not of the configuration 'vq-vae'"):
        train.run(replace(asked, config=None, preset="vq-vae"), ignore)
    with pytest.raises(ModelError, match="not of the configuration 'tiny-vq-vae-2'"):
        train.run(asked, ignore)
    assert not list(tmp_path.iterdir())
    train.run(replace(asked, config=None, preset="tiny"), ignore)  # the same but for its name
    assert models.Model(asked.output).config.tune == "psnr"


def test_bad_requests_are_clear(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no picture"):
        train.run(options(tmp_path, data=tmp_path / "empty"), ignore)
    with pytest.raises(ModelError, match="preset"):
        train.run(options(tmp_path, config=None, preset="nothing"), ignore)
    with pytest.raises(ModelError, match="resume"):
        train.run(options(tmp_path, resume=True), ignore)


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_here_is_refused(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = TrainOptions(output=tmp_path / "w.safetensors", steps=1, device=device)
    with pytest.raises(ModelError, match=f"device '{device}' is not here"):
        train.run(options, print)
    assert not list(tmp_path.iterdir())


def test_device_and_batch_are_decided_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpu, device, batch in ((False, "cpu", 8), (True, "cuda", 64)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        settled = train._settled(TrainOptions(output=tmp_path / "w.safetensors"))
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


def test_messages_do_not_speak_command_line() -> None:
    for path in Path(train.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else ""
            assert not (isinstance(text, str) and "--" in text), f"{path.name}: {text}"


def test_every_option_is_kept_or_of_the_start_or_of_the_machine() -> None:
    names = {field.name for field in fields(TrainOptions)}
    assert set(KEPT) == names - OF_THE_START - OF_THE_MACHINE


@pytest.mark.slow
def test_equal_runs_write_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps and one thread; whenever they log."""
    torch.set_num_threads(1)
    written = []
    for name, seconds, seed in (("a", math.inf, 0), ("b", 0.0, 0), ("c", 0.0, 1)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(journal, "LOG_SECONDS", seconds)
        asked = options(tmp_path / name, steps=24, seed=seed)
        train.run(asked, ignore)
        written.append(asked.output.read_bytes())
    assert written[0] == written[1] != written[2]
    results = models.Model(tmp_path / "a" / "w.safetensors").training["results"]
    assert results["autoencoder"]["steps"] == results["prior"]["steps"] == 12


def test_each_phase_logs_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LOG_STEPS", 7)
    logged: list[tuple[str, int]] = []

    def log(record: dict[str, Any]) -> None:
        if "step" in record:
            logged.append((record["phase"], record["step"]))

    train.run(options(tmp_path, steps=22, prior_share=7 / 22), log)
    assert logged == [("autoencoder", 7), ("autoencoder", 14), ("autoencoder", 15), ("prior", 7)]


class Stopwatch:
    """A clock that stands still but when it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("minutes", "left"), [(1.5, 0.0), (2.5, 1.0)])
def test_minutes_include_start_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, left: float
) -> None:
    clock, given, notes = Stopwatch(), dict[str, float](), list[str]()

    class Listening(Loop):
        def __init__(self, name: str, peaks: Any, minutes: float, *args: Any, **more: Any) -> None:
            given[name] = minutes
            super().__init__(name, peaks, 0.0, *args, **more)  # no steps
            self.elapsed = 60 * minutes  # which it takes nevertheless

    def log(record: dict[str, Any]) -> None:
        notes.append(record.get("note", ""))
        if record["phase"] == "start-up" and record.get("progress") == 1:
            clock.now += 90

    monkeypatch.setattr(train, "time", clock)
    monkeypatch.setattr(train_run, "Loop", Listening)
    train.run(options(tmp_path, steps=None, minutes=minutes, prior_share=0.25), log)
    wanted = {"autoencoder": 0.75 * left, "prior": 0.25 * left, "encoder": 0.0}
    assert given == pytest.approx(wanted)
    assert ("no time is left to train in" in notes) == (left == 0)


@pytest.mark.slow
def test_a_finished_run_can_be_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a larger total, by as many steps as are missing; and that can be interrupted, too."""
    monkeypatch.setattr(train_run, "CHECKPOINT_MINUTES", 0.0)
    monkeypatch.setattr(journal, "LOG_STEPS", 2)
    straight, stopped = (options(tmp_path / name, steps=12) for name in "ab")
    for asked in (straight, stopped):
        asked.output.parent.mkdir()
        train.run(asked, ignore)
    finished = straight.output.read_bytes()
    for changes in ({}, {"steps": 12}, {"minutes": 0.0}):
        with pytest.raises(ModelError, match=r"w\.safetensors: finished after .* larger total"):
            train.run(TrainOptions.resumed(straight.output, **changes), ignore)
    assert straight.output.read_bytes() == finished

    seen: list[dict[str, Any]] = []
    train.run(TrainOptions.resumed(straight.output, steps=20), seen.append)
    assert [r["step"] for r in seen if "step" in r] == [2, 4, 2, 4]
    assert all(r["minutes"] >= 0 for r in seen if "step" in r)
    assert straight.output.read_bytes() != finished
    with pytest.raises(ModelError, match="finished after 20 steps"):
        train.run(TrainOptions.resumed(straight.output), ignore)

    for changes, phase in (({"steps": 20}, "autoencoder"), ({}, "prior")):
        with pytest.raises(Killed):
            train.run(TrainOptions.resumed(stopped.output, **changes), kill_at(phase, 4))
    train.run(TrainOptions.resumed(stopped.output), ignore)
    assert same_weights(straight.output, stopped.output)


def test_a_run_of_steps_is_extended_in_minutes(tmp_path: Path) -> None:
    asked = options(tmp_path, steps=4)
    train.run(asked, ignore)
    longer = TrainOptions.resumed(asked.output, minutes=60.0)
    assert (longer.minutes, longer.steps, longer.batch) == (60.0, None, 4)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    output = tmp_path / "w.safetensors"
    old = train_run.checkpoint_of(output)
    save_file({"rng": torch.get_rng_state()}, old.path, metadata={"run": '{"options": {}}'})
    with pytest.raises(ModelError, match=r"w\.safetensors\.checkpoint: .* another version"):
        TrainOptions.resumed(output)
