"""Processes killed at random moments: what has a final name is whole, inputs are untouched.

VQCODEC_KILLS (default 2) says how often each command is killed.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import same_weights
from PIL import Image
from tiny_runs import tiny_options

from vqcodec import codec
from vqcodec.options import ignore
from vqcodec.training import train
from vqcodec.training.drawings import draw

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("VQCODEC_KILLS", "2"))
STEPS = 20 * KILLS

TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny_runs import tiny_options
from vqcodec.training import run, train
run.CHECKPOINT_MINUTES = 0.0
output = Path(sys.argv[2])
resume = output.with_name(output.name + ".checkpoint").exists()
options = tiny_options(output.parent, output=output, steps=int(sys.argv[3]), resume=resume)
train.run(options, lambda record: None)
"""


def command(*words: object) -> list[str]:
    return [sys.executable, *map(str, words)]


def took(words: list[str]) -> float:
    start = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    return time.monotonic() - start


def killed(words: list[str], after: float) -> bool:
    """Whether the process was killed before it ended."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() != 0


def killed_in_training(words: list[str], checkpoint: Path, after: float) -> bool:
    """The same, some seconds after the first step that it keeps."""

    def kept() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    before = kept()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and kept() == before:
            time.sleep(0.005)
        time.sleep(after)
        process.kill()
        return process.wait() != 0


@pytest.fixture
def model(tiny_weights: dict[str, Path]) -> Path:
    return tiny_weights["vq-vae-2"]


@pytest.mark.parametrize("what", ["compress", "decompress"])
def test_an_output_is_the_old_one_or_the_new_one(tmp_path: Path, model: Path, what: str) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(draw(np.random.default_rng(1), 256)).save(picture)
    source, target = picture, tmp_path / "out.vqc"
    if what == "decompress":
        source, target = tmp_path / "in.vqc", tmp_path / "out.png"
        source.write_bytes(codec.compress(picture, 70, model=str(model)))
    before, old = source.read_bytes(), b"what was there before"
    words = command("-m", "vqcodec", what, source, "-o", target, "-f", "--model", model)
    whole_time = took(words)
    new, rng, kills = target.read_bytes(), random.Random(what), 0
    for _ in range(KILLS):
        target.write_bytes(old)
        kills += killed(words, whole_time * rng.uniform(0.2, 0.95))
        assert target.read_bytes() in (old, new)
        assert source.read_bytes() == before
    print(f"{kills} of {KILLS} were killed")
    assert took(words) > 0 and target.read_bytes() == new  # litter is in nobody's way


def test_training_goes_on_after_any_kill(tmp_path: Path) -> None:
    stopped, straight = tmp_path / "a.safetensors", tmp_path / "b" / "a.safetensors"
    straight.parent.mkdir()
    words = command("-c", TRAIN, Path(__file__).parent, stopped, STEPS)
    checkpoint = stopped.with_name(stopped.name + ".checkpoint")
    rng, kills = random.Random(0), 0
    while kills < KILLS and not stopped.exists():
        kills += killed_in_training(words, checkpoint, rng.uniform(0, 0.3))
    print(f"{kills} of {KILLS} were killed")
    assert kills
    if not stopped.exists():
        took(words)
    train.run(tiny_options(straight.parent, output=straight, steps=STEPS), ignore)
    assert same_weights(stopped, straight)
