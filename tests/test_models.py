import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from helpers import GOLDEN
from safetensors import safe_open
from safetensors.torch import save_file

from vqcodec import models
from vqcodec.config import TUNES, Tuning
from vqcodec.errors import ModelError
from vqcodec.networks.model import hash_file

TINY_WEIGHTS = GOLDEN / "v0" / "tiny.safetensors"


def test_a_saved_model_loads(tiny_weights: dict[str, Path]) -> None:
    model = models.load(str(tiny_weights["residual"]))
    assert len(model.model_id) == 4
    assert [level.stride for level in model.config.levels] == [16, 16, 8, 8, 4]
    assert model.autoencoder.dim == 12 and model.quantizer.dim == 12
    assert models.find(model.model_id, str(tiny_weights["residual"])) is model


def test_floats_are_stored_as_fp16_but_for_the_transforms(tiny_weights: dict[str, Path]) -> None:
    tensors = models.load(str(tiny_weights["residual"])).tensors
    assert tensors["autoencoder.klt"].dtype == np.float32
    assert tensors["autoencoder.encoder_in.weight"].dtype == np.float16
    assert tensors["prior.table"].dtype == np.int32


SAVE = """
import sys
from pathlib import Path
from vqcodec import models
source = models.load(sys.argv[1])
names = sorted(source.tensors, reverse=sys.argv[3] == "reversed")
training = {"note": "for tests", "results": {"b": 1, "a": 2}}
if sys.argv[3] == "reversed":
    training = {"results": {"a": 2, "b": 1}, "note": training["note"]}
state = {name: source.tensors[name] for name in names}
models.save(Path(sys.argv[2]), source.config, state, training, "probe")
"""


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    written = []
    for seed, order in (("0", "sorted"), ("1", "sorted"), ("2", "reversed"), ("3", "reversed")):
        path = tmp_path / f"{seed}.safetensors"
        words = [sys.executable, "-c", SAVE, str(TINY_WEIGHTS), str(path), order]
        subprocess.run(words, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        written.append(path.read_bytes())
    assert len(set(written)) == 1


def test_the_library_reads_what_is_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "odd": rng.integers(-128, 128, 13, np.int8),
        "b.weight": rng.standard_normal((3, 5)).astype(np.float32),
        "a.weight": rng.standard_normal((2, 1, 7)).astype(np.float16),
        "empty": np.zeros((0, 4), np.int32),
    }
    metadata = {"z": '\u00fc "quoted"', "a": "", "m": "{}"}
    data = models.serialise(tensors, metadata)
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0 and data[8 : 8 + size].startswith(b'{"__metadata__":{"a":"","m":')
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == metadata and set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            found = file.get_tensor(name)
            assert found.dtype == tensor.dtype and np.array_equal(found, tensor)


@pytest.mark.parametrize("name", ["", "no-such-model", "../photo", "/dev/null", "tests"])
def test_unknown_models_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        models.load(name)


def test_unknown_id_names_itself() -> None:
    with pytest.raises(ModelError, match="0123456789abcdef"):
        models.find(bytes.fromhex("0123456789abcdef"))
    with pytest.raises(ModelError, match="no-such-file"):
        models.find(bytes.fromhex("0123456789abcdef"), "no-such-file")


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_weights_are_refused(
    tiny_weights: dict[str, Path], tmp_path: Path, keep: int
) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_weights["vq-vae"].read_bytes()[:keep])
    with pytest.raises(ModelError):
        models.load(str(path))


def test_number_types_that_numpy_lacks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bfloat16.safetensors"
    save_file({"x": torch.zeros(2, dtype=torch.bfloat16)}, path, metadata={"config": "{}"})
    with pytest.raises(ModelError, match="not a vqcodec weights file"):
        models.load(str(path))


def test_weights_without_a_tensor_are_refused(
    tiny_weights: dict[str, Path], tmp_path: Path
) -> None:
    model = models.load(str(tiny_weights["vq-vae"]))
    path = tmp_path / "lacking.safetensors"
    state = {k: v for k, v in model.tensors.items() if k != "autoencoder.up.weight"}
    models.save(path, model.config, state, {})
    with pytest.raises(ModelError, match="up.weight"):
        _ = models.load(str(path)).autoencoder


def test_shipped_models_fit_their_budget() -> None:
    cards = models.cards()
    assert {card.name for card in cards} == set(models.TUNED.values())
    for card in cards:
        assert card.num_bytes <= 32 * 2**20
        assert models.name_of(bytes.fromhex(card.model_id)) == card.name


@pytest.mark.parametrize("tune", TUNES)
def test_every_tune_has_a_model_that_is_tuned_so(tune: Tuning) -> None:
    assert models.load(models.TUNED[tune]).config.tune == tune


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package without weights, in a folder of other packages."""
    folder = tmp_path / "vqcodec"
    folder.mkdir()
    monkeypatch.setattr(models, "PACKAGE", folder)
    return folder


def put(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    shutil.copy(TINY_WEIGHTS, path)
    return path


def test_strangers_beside_an_installed_package_are_not_ours(package: Path) -> None:
    put(package.parent / "weights" / "stranger.safetensors")
    assert models.shipped() == {}
    own = put(package / "weights" / "own.safetensors")
    (package.parent / "pyproject.toml").touch()  # even so
    assert models.shipped() == {"own": own}


def test_a_checkout_has_its_weights_beside_the_package(package: Path) -> None:
    (package.parent / "pyproject.toml").touch()
    path = put(package.parent / "weights" / "tiny.safetensors")
    assert models.shipped() == {"tiny": path}


def test_files_that_cannot_be_read_do_not_hide_the_others(package: Path) -> None:
    tiny = put(package / "weights" / "tiny.safetensors")
    (tiny.parent / "a-folder.safetensors").mkdir()
    (tiny.parent / "junk.safetensors").write_bytes(b"junk")
    save_file({"x": torch.zeros(2)}, tiny.parent / "other.safetensors")
    save_file({}, tiny.parent / "list.safetensors", {"config": "[]", "training": "[]"})
    found = {card.name: card for card in models.cards()}
    assert set(found) == {"junk", "list", "other", "tiny"}
    assert found["tiny"].note == "for the tests" and found["tiny"].model_id
    for name in ("junk", "list", "other"):
        assert found[name].note.startswith("cannot be read: ") and not found[name].model_id
    model_id = bytes.fromhex(found["tiny"].model_id)
    assert models.name_of(model_id) == "tiny" and models.find(model_id).path == tiny


def test_files_that_vanish_do_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"gone": tmp_path / "gone.safetensors", "tiny": TINY_WEIGHTS}
    monkeypatch.setattr(models, "shipped", lambda: names)
    assert models.name_of(hash_file(TINY_WEIGHTS)) == "tiny"
    assert [card.note for card in models.cards()][1] == "for the tests"


@pytest.mark.parametrize("note", ["for the TESTS", "a note that fills more than the padding"])
def test_a_file_replaced_within_the_resolution_of_time_is_read_again(
    tmp_path: Path, note: str
) -> None:
    path = put(tmp_path / "a.safetensors")
    first, status = models.load(str(path)), path.stat()
    training = {**first.training, "note": note}
    models.save(tmp_path / "b.safetensors", first.config, first.tensors, training)
    if len(note) == len(first.training["note"]):  # by another file, whose size may be the same
        (tmp_path / "b.safetensors").replace(path)
    else:  # in place
        path.write_bytes((tmp_path / "b.safetensors").read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = models.load(str(path))
    assert second.training["note"] == note and second.model_id != first.model_id


def test_threads_that_load_at_once_get_the_same_model(tmp_path: Path) -> None:
    path, count = put(tmp_path / "a.safetensors"), 8
    start = Barrier(count)

    def load(_: int) -> list[np.ndarray]:
        start.wait()
        model = models.load(str(path))
        prior, network, quantizer = model.prior, model.autoencoder, model.quantizer
        codes = [p.numpy() for p in (*network.parameters(), *quantizer.buffers())]
        return [*model.tensors.values(), prior.table, *codes]

    with ThreadPoolExecutor(count) as pool:
        first, *others = pool.map(load, range(count))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_names_are_found_without_numpy() -> None:
    code = """
import sys
from vqcodec import models
assert models.name_of(bytes.fromhex(sys.argv[1])) == "photo"
sys.exit("numpy" in sys.modules)
"""
    model_id = hash_file(models.shipped()["photo"]).hex()
    words = [sys.executable, "-c", code, model_id]
    assert subprocess.run(words, check=False).returncode == 0
