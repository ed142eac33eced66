"""Model name or id -> weights file, its card, the loaded model.

A weights file is `weights/NAME.safetensors`: tensors only, the configuration as JSON in its
metadata. A `.vqc` file names its model by the first 4 bytes of the SHA-256 of the weights file.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqcodec.config import ModelConfig, Tuning
from vqcodec.errors import ModelError
from vqcodec.files import write_atomically
from vqcodec.networks.model import Metadata, Model, Version, hash_file, version_of

if TYPE_CHECKING:  # `info` asks for names only, and should not wait for NumPy
    from numpy.typing import NDArray

__all__ = [
    "TUNED",
    "Model",
    "ModelCard",
    "cards",
    "find",
    "load",
    "name_of",
    "save",
    "serialise",
    "shipped",
]

PACKAGE = Path(__file__).parent
# The shipped model for each tune.
TUNED: dict[Tuning, str] = {"psnr": "photo", "ssim": "photo-ssim"}

# Stored in full precision, since everything after them relies on their being orthonormal.
FULL_PRECISION = ("klt", "sigma", "projection")


@dataclass(frozen=True)
class ModelCard:
    """What a user is told about a weights file.

    Attributes:
        model_id: 8 hexadecimal digits; none if the file cannot be read.
        note: on its training; of a file that cannot be read, why.
    """

    name: str
    model_id: str
    num_bytes: int
    path: str
    note: str


def save(
    path: Path,
    config: ModelConfig,
    state: "Mapping[str, NDArray[Any]]",
    training: Mapping[str, Any],
    probe: str | None = None,
) -> None:
    """Write a weights file in one step; floats as fp16 but for `FULL_PRECISION`.

    Equal arguments give equal bytes, hence one id.

    Args:
        state: tensors named `autoencoder.*`, `quantizer.*`, `prior.*`.
        training: how it was trained, for its card; stored in the metadata as JSON.
        probe: what `probe.probe` gives for the prior, for `vqcodec doctor`.
    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    import numpy as np

    tensors = {name: np.ascontiguousarray(_stored(name, t)) for name, t in state.items()}
    metadata = {"config": config.to_json(), "training": json.dumps(training, sort_keys=True)}
    if probe is not None:
        metadata["probe"] = probe
    write_atomically(path, serialise(tensors, metadata))


def serialise(tensors: "dict[str, NDArray[Any]]", metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file, the same for the same tensors and metadata.

    The library writes the metadata in random order, which would give each file another id.

    Source: https://huggingface.co/docs/safetensors (8 bytes: size of the header, little-endian;
        the header, JSON padded by spaces; the data, whose offsets count from the header's end).
    """
    from safetensors.numpy import save as serialise_in_any_order

    data = serialise_in_any_order(tensors, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the data stay aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def _stored(name: str, tensor: "NDArray[Any]") -> "NDArray[Any]":
    exact = any(word in name for word in FULL_PRECISION)
    return tensor if exact or tensor.dtype != "float32" else tensor.astype("float16")


def shipped() -> dict[str, Path]:
    """Name -> weights file of every model that came with the package."""
    paths = sorted(_folder().glob("*.safetensors"))
    return {path.stem: path for path in paths if path.is_file()}


def _folder() -> Path:
    """Where the shipped models are: in the package, or beside it in a checkout.

    The folder beside an installed package is anyone's.
    """
    inside, beside = PACKAGE / "weights", PACKAGE.parent / "weights"
    is_checkout = not inside.is_dir() and (PACKAGE.parent / "pyproject.toml").is_file()
    return beside if is_checkout else inside


@lru_cache(maxsize=4)
def _load(path: Path, version: Version) -> Model:
    return Model(path)


def load(name: str) -> Model:
    """A model by its name (see `cards`) or by the path of a weights file.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    path = _path(name)
    return _load(path.resolve(), version_of(path))


def _path(name: str) -> Path:
    path = shipped().get(name, Path(name))
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        known = ", ".join(shipped()) or "none"
        raise ModelError(f"no model {name!r}: neither shipped ({known}) nor a weights file")
    return path


def find(model_id: bytes, name: str | None = None) -> Model:
    """The model that a `.vqc` file needs.

    Args:
        model_id: from the file.
        name: name or path of the model to use, whose id must be this; None: any that is shipped.
    Raises:
        ModelError: it is not here, with its id in the message; or there is no such `name`.
    """
    own = name_of(model_id) if name is None else name
    if own is not None:
        path = _path(own)
        if hash_file(path) == model_id:
            return load(str(path))
    where = "among those shipped" if name is None else name
    raise ModelError(f"the file needs model {model_id.hex()}, which is not {where}")


def name_of(model_id: bytes) -> str | None:
    """Name of a shipped model, without loading it."""
    for name, path in shipped().items():
        with suppress(ModelError):  # a file that cannot be read does not hide those after it
            if hash_file(path) == model_id:
                return name
    return None


def cards() -> list[ModelCard]:
    """Cards of all shipped models; a file that cannot be read has one that says so."""
    return [_card(name, path) for name, path in shipped().items()]


def _card(name: str, path: Path) -> ModelCard:
    try:
        note = str(Metadata.read(path).training.get("note", ""))
        return ModelCard(name, hash_file(path).hex(), path.stat().st_size, str(path), note)
    except (ModelError, OSError) as error:
        return ModelCard(name, "", 0, str(path), f"cannot be read: {error}")
