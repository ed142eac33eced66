"""A loaded weights file: its configuration, its tensors, and the networks that they fill."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from vqcodec.bitstream.container import MODEL_ID_BYTES
from vqcodec.config import RATE_BINS, ModelConfig
from vqcodec.errors import ModelError

if TYPE_CHECKING:  # `info` asks for names only, and should not wait for NumPy
    from numpy.typing import NDArray

    from vqcodec.networks.autoencoder import Autoencoder
    from vqcodec.networks.quantizer import Quantizer
    from vqcodec.prior.arithmetic import Arithmetic
    from vqcodec.prior.integer_prior import IntegerPrior

__all__ = ["Metadata", "Model", "Version", "hash_file", "least_numbers", "version_of"]

Version = tuple[int, int, int]

# What reading a weights file may raise; the last three are for number types that NumPy lacks and
# for JSON that is nested without end.
_UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Metadata:
    """What a weights file says of itself.

    Attributes:
        training: how it was made, for its card.
        probe: hash of `probe.probe` where it was made, if stored.
    """

    config: ModelConfig
    training: dict[str, Any]
    probe: str | None

    @classmethod
    def read(cls, path: Path) -> "Metadata":
        """Raises ModelError if the file is no weights file."""
        with _model_errors(path), safe_open(path, framework="np") as file:
            raw = file.metadata() or {}
            if "config" not in raw:
                raise ValueError("it holds no configuration")
            training = json.loads(raw.get("training", "{}"))
            if not isinstance(training, dict):
                raise ValueError("its `training` is no JSON object")
            return cls(ModelConfig.from_json(raw["config"]), training, raw.get("probe"))


class Model:
    """A loaded weights file. The networks, hence torch, load when first used.

    Threads may share one: whatever two of them load at the same time is the same.

    Attributes:
        model_id: as from `hash_file`.
        tensors: everything that is stored, by name.
    """

    def __init__(self, path: Path) -> None:
        """Raises ModelError if the file is missing, or no weights file."""
        self.path = path
        self._priors: dict[Arithmetic, IntegerPrior] = {}
        self.model_id = hash_file(path)
        metadata = Metadata.read(path)
        self.config, self.training, self.probe = metadata.config, metadata.training, metadata.probe
        with _model_errors(path), safe_open(path, framework="np") as file:
            # A safetensors handle has keys() but is no mapping.
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    @property
    def prior(self) -> "IntegerPrior":
        """The frozen prior in the fastest arithmetic; needs no torch."""
        from vqcodec.prior.arithmetic import fastest

        return self.prior_in(fastest())

    def prior_in(self, arithmetic: "Arithmetic") -> "IntegerPrior":
        """The frozen prior in one arithmetic."""
        from vqcodec.prior.integer_prior import IntegerPrior

        if arithmetic not in self._priors:
            self._priors[arithmetic] = IntegerPrior(
                self.config, self._section("prior."), arithmetic
            )
        return self._priors[arithmetic]

    @cached_property
    def autoencoder(self) -> "Autoencoder":
        """Raises ModelError if the weights do not fit their configuration."""
        from vqcodec.networks.autoencoder import Autoencoder

        self._check_size()
        network = Autoencoder(self.config)
        self._fill(network, "autoencoder.")
        return network

    @cached_property
    def quantizer(self) -> "Quantizer":
        """Raises ModelError if the weights do not fit their configuration."""
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
        if there < (least := least_numbers(self.config)):
            raise ModelError(f"weights of {there} numbers: their configuration needs {least}")

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
        except RuntimeError as error:
            raise ModelError(f"weights do not fit their configuration: {error}") from error
        if missing:
            raise ModelError(f"weights lack {prefix}{missing[0]}")
        if unexpected:
            raise ModelError(f"weights hold {prefix}{unexpected[0]}, which has no place")
        module.eval().requires_grad_(False)


@contextmanager
def _model_errors(path: Path) -> Iterator[None]:
    """Raise what reading a weights file may raise as ModelError."""
    try:
        yield
    except _UNREADABLE as error:
        raise ModelError(f"{path}: not a vqcodec weights file: {error}") from error


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


def version_of(path: Path) -> Version:
    """What changes when a file is replaced or rewritten, as the key of what was read from it.

    The time alone is not enough: some file systems keep it in steps of two seconds.

    Raises:
        ModelError: there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=32)
def _hash(path: Path, version: Version) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()[:MODEL_ID_BYTES]


def hash_file(path: Path) -> bytes:
    """Model id: the first 4 bytes of the SHA-256 of a weights file.

    Raises:
        ModelError: it cannot be read.
    """
    version = version_of(path)
    try:
        return _hash(path.resolve(), version)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
