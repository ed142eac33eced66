"""Model name or id -> weights file, its SHA-256, the loaded model.

A weights file is `weights/NAME.safetensors`: tensors only, the configuration as JSON in its
metadata. A `.vqc` file names its model by the first 4 bytes of the SHA-256 of the weights file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from vqcodec.bitstream.container import MODEL_ID_BYTES
from vqcodec.config import RATE_BINS, ModelConfig, Tuning
from vqcodec.errors import ModelError
from vqcodec.files import write_atomically

if TYPE_CHECKING:  # `info` asks for names only, and should not wait for NumPy
    from numpy.typing import NDArray

    from vqcodec.networks.autoencoder import Autoencoder
    from vqcodec.networks.quantizer import Quantizer
    from vqcodec.prior.arithmetic import Arithmetic
    from vqcodec.prior.integer_prior import IntegerPrior

__all__ = ["TUNED", "Model", "ModelCard", "find", "load", "models", "name_of", "save"]

PACKAGE = Path(__file__).parent
# The shipped model for each tune.
TUNED: dict[Tuning, str] = {"psnr": "photo", "ssim": "photo-ssim"}
FOLDERS = (PACKAGE / "weights", PACKAGE.parent / "weights")  # in a wheel; in a checkout

# Kept at full precision: everything after them relies on their being orthonormal.
FULL_PRECISION = ("klt", "sigma", "projection")

# What reading a weights file may raise; the last three are for number types that NumPy lacks and
# for JSON that is nested without end.
_UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class ModelCard:
    """What a user is told about a weights file."""

    name: str
    model_id: str  # 8 hexadecimal digits
    num_bytes: int
    path: str
    note: str


class Model:
    """A loaded weights file. The networks, hence torch, load when first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._priors: dict[Arithmetic, IntegerPrior] = {}
        try:
            self.model_id = hash_file(path)
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                # A safetensors handle has keys() but is no mapping.
                self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.config = ModelConfig.from_json(metadata.get("config", ""))
            self.training: dict[str, Any] = json.loads(metadata.get("training", "{}"))
            self.probe: str | None = metadata.get("probe")  # hash of `probe.probe`, if stored
        except _UNREADABLE as error:
            raise ModelError(f"{path}: not a vqcodec weights file: {error}") from error

    @property
    def prior(self) -> "IntegerPrior":
        """The frozen prior in the fastest arithmetic; needs no torch."""
        from vqcodec.prior.arithmetic import fastest

        return self.prior_in(fastest())

    def prior_in(self, arithmetic: "Arithmetic") -> "IntegerPrior":
        from vqcodec.prior.integer_prior import IntegerPrior

        if arithmetic not in self._priors:
            self._priors[arithmetic] = IntegerPrior(
                self.config, self._section("prior."), arithmetic
            )
        return self._priors[arithmetic]

    @cached_property
    def autoencoder(self) -> "Autoencoder":
        from vqcodec.networks.autoencoder import Autoencoder

        self._check_size()
        network = Autoencoder(self.config)
        self._fill(network, "autoencoder.")
        return network

    @cached_property
    def quantizer(self) -> "Quantizer":
        from vqcodec.networks.quantizer import Quantizer

        self._check_size()
        quantizer = Quantizer(self.config)
        self._fill(quantizer, "quantizer.")
        return quantizer

    def training_prior(self) -> dict[str, Any]:
        """What training needs of the prior beyond its integers, as torch tensors by name."""
        return self._torch_section("training.prior.")

    def levels_worth(self, quality: int) -> int:
        """How many levels the encoder uses at a quality."""
        return self.quantizer.levels_worth(quality)

    def _check_size(self) -> None:
        # The networks are built before they are filled: a few bytes must not ask for gigabytes.
        own = ("autoencoder.", "quantizer.")
        there = sum(t.size for name, t in self.tensors.items() if name.startswith(own))
        if there < (wanted := least_numbers(self.config)):
            raise ModelError(f"weights lack numbers: {there}, their configuration has {wanted}")

    def _section(self, prefix: str) -> "dict[str, NDArray[Any]]":
        return {name: t for name, t in self.tensors.items() if name.startswith(prefix)}

    def _torch_section(self, prefix: str) -> dict[str, Any]:
        import torch

        return {
            name.removeprefix(prefix): torch.from_numpy(tensor.astype("float32"))
            for name, tensor in self._section(prefix).items()
        }

    def _fill(self, module: Any, prefix: str) -> None:
        state = self._torch_section(prefix)
        if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
            raise ModelError(f"weights hold numbers that are not finite: {broken[0]}")
        try:
            missing, unexpected = module.load_state_dict(state, strict=False)
            # Moving averages of training are not stored; everything else must be there.
            if unexpected or any(not name.startswith("code_") for name in missing):
                raise ModelError(f"weights lack {missing}, or have {unexpected} too many")
        except RuntimeError as error:
            raise ModelError(f"weights do not fit their configuration: {error}") from error
        module.eval().requires_grad_(False)


def save(
    path: Path,
    config: ModelConfig,
    state: "Mapping[str, NDArray[Any]]",
    training: Mapping[str, Any],
    probe: str | None = None,
) -> None:
    """Write a weights file in one step; floats as fp16 but for `FULL_PRECISION`.

    Args:
        state: tensors named `autoencoder.*`, `quantizer.*`, `prior.*`.
        training: what the card says of how it was made; goes into the metadata as JSON.
        probe: what `probe.probe` gives for the prior, for `vqcodec doctor`.
    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    import numpy as np
    from safetensors.numpy import save as serialise

    tensors = {name: np.ascontiguousarray(_stored(name, t)) for name, t in state.items()}
    metadata = {"config": config.to_json(), "training": json.dumps(dict(training))}
    if probe is not None:
        metadata["probe"] = probe
    write_atomically(path, serialise(tensors, metadata))


def _stored(name: str, tensor: "NDArray[Any]") -> "NDArray[Any]":
    exact = any(word in name for word in FULL_PRECISION)
    return tensor if exact or tensor.dtype != "float32" else tensor.astype("float16")


def least_numbers(config: ModelConfig) -> int:
    """How many numbers autoencoder and quantizer store at least; it is more than half of them."""
    pixels, dim, (encoder, _) = 3 * config.base_stride**2, config.latent_dims[-1], config.encoder
    (coarse, _), (middle, _), (fine, _) = config.decoder
    total = pixels**2 + encoder * (pixels + dim) + middle * (8 * coarse + 4 * fine + dim)
    total += sum(
        18 * channels**2 * blocks for channels, blocks in (config.encoder, *config.decoder)
    )
    for stride, width in zip(config.strides, config.latent_dims, strict=True):
        total += dim * (stride // config.base_stride) ** 2 * width
    for level in config.levels:
        total += level.codebook_size * (config.latent_dim(level.stride) + RATE_BINS * level.slices)
    return total


@lru_cache(maxsize=32)
def _hash(path: Path, mtime_ns: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()[:MODEL_ID_BYTES]


def hash_file(path: Path) -> bytes:
    """Model id: the first 4 bytes of the SHA-256 of a weights file."""
    try:
        return _hash(path.resolve(), path.stat().st_mtime_ns)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error


def shipped() -> dict[str, Path]:
    """Name -> weights file of every model that came with the package."""
    found: dict[str, Path] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.safetensors")):
            found.setdefault(path.stem, path)
    return found


@lru_cache(maxsize=4)
def _load(path: Path, mtime_ns: int) -> Model:
    return Model(path)


def load(name: str) -> Model:
    """A model by its name (see `models`) or by the path of a weights file.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    path = _path(name)
    return _load(path.resolve(), path.stat().st_mtime_ns)


def _path(name: str) -> Path:
    path = shipped().get(name, Path(name))
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        known = ", ".join(shipped()) or "none"
        raise ModelError(f"no model {name!r}: neither shipped ({known}) nor a weights file")
    return path


def find(model_id: bytes, name: str | None = None) -> Model:
    """The model that a `.vqc` file names.

    Args:
        model_id: from the file.
        name: where to look instead of among the shipped models.
    Raises:
        ModelError: it is not here, with its id in the message; or there is no such `name`.
    """
    for path in [_path(name)] if name else shipped().values():
        if hash_file(path) == model_id:
            return load(str(path))
    raise ModelError(
        f"the file needs model {model_id.hex()}, which is not {name or 'among those shipped'}"
    )


def name_of(model_id: bytes) -> str | None:
    """Name of a shipped model, without loading it."""
    for name, path in shipped().items():
        if hash_file(path) == model_id:
            return name
    return None


def models() -> list[ModelCard]:
    """Cards of all shipped models."""
    cards = []
    for name, path in shipped().items():
        try:
            with safe_open(path, framework="np") as file:
                note = json.loads((file.metadata() or {}).get("training", "{}")).get("note", "")
        except _UNREADABLE as error:
            raise ModelError(f"{path}: not a vqcodec weights file: {error}") from error
        size = path.stat().st_size
        cards.append(ModelCard(name, hash_file(path).hex(), size, str(path), note))
    return cards
