"""Frozen configuration of a model, checked when built, to and from JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from vqcodec.limits import MAX_LEVELS

__all__ = ["PRESETS", "RATE_BINS", "TUNES", "Level", "ModelConfig", "PriorConfig", "Tuning"]

Tuning = Literal["psnr", "ssim"]
TUNES: tuple[Tuning, ...] = get_args(Tuning)
RATE_BINS = 16  # ranges of quality that have index statistics of their own


@dataclass(frozen=True)
class Level:
    """One index grid: `slices` indices per `stride` x `stride` pixels, of `codebook_size` codes.

    With several slices the level is a product quantiser (Jegou et al. 2011): the latent channels
    are cut into slices of equal width, each with a codebook of its own.
    """

    stride: int
    codebook_size: int
    slices: int = 1

    def __post_init__(self) -> None:
        _check_integers("level", (self.stride, self.codebook_size, self.slices), 1, 4096)
        if self.stride not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"stride must be a power of two up to 64, got {self.stride}")
        if self.codebook_size < 2:
            raise ValueError(f"codebook size must be 2..4096, got {self.codebook_size}")


@dataclass(frozen=True)
class PriorConfig:
    """Size of the PixelCNN: channels of each distinct stride (coarse first), gated layers."""

    channels: tuple[int, ...]
    layers: int = 4

    def __post_init__(self) -> None:
        _check_integers("prior channels", self.channels, 1, 512)
        _check_integers("prior layers", (self.layers,), 1, 64)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes a model.

    Args:
        name: what the user types after `--model`.
        levels: coarse first; strides never increase along the list, and the levels of a stride
            have codebooks of one size.
        latent_dims: latent channels of each distinct stride, coarse first.
        encoder: channels of the encoder branch, then its residual blocks.
        decoder: (channels, blocks) at twice, once and half the finest stride.
        prior: size of the prior.
        lambdas: squared error (pixels in 0..1, summed over RGB) that one bit must save,
            at equal steps of quality from 0 to 100; log-linear between.
        tune: `psnr` or `ssim`: what training and the encoder's search are after.
    """

    name: str
    levels: tuple[Level, ...]
    latent_dims: tuple[int, ...]
    prior: PriorConfig
    encoder: tuple[int, int] = (128, 2)
    decoder: tuple[tuple[int, int], ...] = ((256, 2), (128, 2), (64, 2))
    lambdas: tuple[float, ...] = (0.3, 0.019, 0.0002)
    tune: Tuning = "psnr"

    def __post_init__(self) -> None:
        strides = [level.stride for level in self.levels]
        if not 1 <= len(strides) <= MAX_LEVELS or strides != sorted(strides, reverse=True):
            raise ValueError(f"levels must be 1..{MAX_LEVELS}, coarse first, got strides {strides}")
        sizes = {(level.stride, level.codebook_size) for level in self.levels}
        if len(sizes) > len(self.strides):
            raise ValueError(f"one codebook size per stride, got {sorted(sizes, reverse=True)}")
        if self.strides[-1] < 2:
            raise ValueError("the finest stride must be at least 2")
        for what, values in (("latent", self.latent_dims), ("prior", self.prior.channels)):
            if len(values) != len(self.strides):
                raise ValueError(f"{what}: one width per distinct stride {self.strides}")
        _check_integers("latent channels", self.latent_dims, 1, 3 * 64 * 64)
        for dim, stride in zip(self.latent_dims, self.strides, strict=True):
            if dim > 3 * stride * stride:
                raise ValueError(f"stride {stride} has at most {3 * stride**2} latent channels")
        for level in self.levels:
            if self.latent_dim(level.stride) % level.slices:
                raise ValueError(f"{level.slices} slices do not divide the latent channels")
        self._check_branches()
        falling = sorted(self.lambdas, reverse=True)
        bounded = all(0 < value < 1e9 for value in self.lambdas)  # integers, too, have no end
        if len(self.lambdas) < 2 or list(self.lambdas) != falling or not bounded:
            raise ValueError(f"lambdas must fall with quality and be positive, got {self.lambdas}")
        if self.tune not in TUNES:
            raise ValueError(f"tune must be one of {', '.join(TUNES)}, got {self.tune!r}")

    def _check_branches(self) -> None:
        if len(self.decoder) != 3 or {len(self.encoder), *map(len, self.decoder)} != {2}:
            raise ValueError("encoder and decoder take one and three pairs (channels, blocks)")
        pairs = (self.encoder, *self.decoder)
        _check_integers("channels", [channels for channels, _ in pairs], 1, 1024)
        _check_integers("blocks", [blocks for _, blocks in pairs], 0, 64)

    @property
    def strides(self) -> tuple[int, ...]:
        """Distinct strides, coarse first."""
        return tuple(dict.fromkeys(level.stride for level in self.levels))

    @property
    def base_stride(self) -> int:
        """The finest stride: the grid on which the latent lives."""
        return self.levels[-1].stride

    def latent_dim(self, stride: int) -> int:
        """Latent channels in which levels of this stride are quantised."""
        return self.latent_dims[self.strides.index(stride)]

    def lambda_at(self, quality: float) -> float:
        """Squared error per bit at a quality 0..100."""
        place = min(max(quality, 0), 100) / 100 * (len(self.lambdas) - 1)
        k = min(int(place), len(self.lambdas) - 2)
        first, last = self.lambdas[k : k + 2]
        return float(first * (last / first) ** (place - k))

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Size of a picture that is extended to multiples of the coarsest stride."""
        coarse = self.levels[0].stride
        return -(-height // coarse) * coarse, -(-width // coarse) * coarse

    def grid_shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        """(h, w) of each level's grid for a picture, padded to the coarsest stride."""
        rows, cols = self.padded(height, width)
        return [(rows // level.stride, cols // level.stride) for level in self.levels]

    @property
    def encoder_reach(self) -> int:
        """How many pixels beyond a block the encoder sees."""
        return 2 * self.encoder[1] * self.base_stride

    @property
    def decoder_reach(self) -> int:
        """How many pixels beyond a pixel the decoder sees, at most."""
        (_, coarse), (_, middle), (_, fine) = self.decoder
        # Two convolutions per block, at 2, 1 and 1/2 strides, and the last one; one stride more
        # because a pixel may lie on the far side of its coarse cell.
        return self.base_stride * (4 * coarse + 2 * middle + fine + 1) + self.base_stride // 2

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Inverse of `to_json`; ValueError for anything else."""
        try:
            raw: dict[str, Any] = json.loads(text)
            if unknown := set(raw) - {field.name for field in fields(cls)}:
                raise ValueError(f"unknown fields {sorted(unknown)}")
            prior = raw.pop("prior")
            return cls(
                levels=tuple(Level(**level) for level in raw.pop("levels")),
                prior=PriorConfig(channels=tuple(prior["channels"]), layers=prior["layers"]),
                **{key: _tuples(value) for key, value in raw.items()},
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a model configuration: {error}") from error


def _check_integers(what: str, values: Sequence[int], low: int, high: int) -> None:
    # Of type int: JSON has floats and booleans too, and 8.0 == 8 would pass here and fail later.
    if not values or not all(type(value) is int and low <= value <= high for value in values):
        raise ValueError(f"{what} must be integers in {low}..{high}, got {values}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _levels(*groups: tuple[int, ...]) -> tuple[Level, ...]:
    return tuple(Level(*level) for count, *level in groups for _ in range(count))


PRESETS = {
    "photo": ModelConfig(
        name="photo",
        levels=_levels((4, 16, 512), (7, 8, 256), (2, 8, 256, 24)),
        latent_dims=(192, 192),
        prior=PriorConfig(channels=(96, 64), layers=3),
        encoder=(192, 4),
        decoder=((256, 2), (128, 3), (64, 3)),
        lambdas=(0.8, 0.019, 0.0004),
    ),
    # The two ancestors, as configurations of the same code.
    "vq-vae": ModelConfig(
        name="vq-vae",
        levels=_levels((1, 8, 512)),
        latent_dims=(64,),
        prior=PriorConfig(channels=(64,)),
    ),
    "vq-vae-2": ModelConfig(
        name="vq-vae-2",
        levels=_levels((1, 16, 512), (1, 8, 512)),
        latent_dims=(128, 64),
        prior=PriorConfig(channels=(64, 64)),
    ),
}
