"""Checkpoints of a training run: one safetensors file, replaced in one step; no pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from vqcodec.errors import ModelError
from vqcodec.files import write_atomically
from vqcodec.training.loop import Loop

__all__ = ["Checkpoint", "Saved"]

FORMAT = 2  # of what a checkpoint holds; there is no reading of others


class Saved:
    """A checkpoint that was read."""

    def __init__(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.tensors, self.meta = tensors, meta

    def section(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names start with `prefix.`, without it."""
        start = prefix + "."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}

    def restore_modules(self, modules: Mapping[str, nn.Module]) -> None:
        for name, module in modules.items():
            module.load_state_dict(self.section(name))

    def restore_generators(self, rng: np.random.Generator) -> None:
        torch.set_rng_state(self.tensors["rng"])
        if "rng_cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["rng_cuda"])
        rng.bit_generator.state = self.meta["numpy_rng"]

    def restore_loop(self, loop: Loop, extra: Mapping[str, Tensor]) -> None:
        """Fill in optimizer and moving average of a loop, and the tensors of `extra`."""
        optimizer = loop.optimizer
        loop.averaged.load_state_dict(self.section("averaged"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.section("optimizer").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                if value.shape == parameter.shape:
                    # The fused optimizer needs moments that lie in memory as their parameter does.
                    values[key] = torch.empty_like(parameter).copy_(value)
        for name, tensor in extra.items():
            tensor.copy_(self.tensors[f"extra.{name}"])


class Checkpoint:
    """Where a run's checkpoint lies."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(
        self,
        meta: dict[str, Any],
        modules: Mapping[str, nn.Module],
        rng: np.random.Generator,
        loop: Loop | None = None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write everything that the rest of the run depends on.

        Args:
            rng: of the crops; that of torch is kept, too.
            loop: whose optimizer and moving average go along; None between phases.
            extra: other tensors.
        Raises:
            OSError: the file cannot be written; the checkpoint before it stays.
        """
        tensors = {"rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng_cuda"] = torch.cuda.get_rng_state()
        for name, module in modules.items():
            tensors |= _section(name, module.state_dict())
        if loop is not None:
            tensors |= _section("averaged", loop.averaged.state_dict())
            for index, state in loop.optimizer.state_dict()["state"].items():
                tensors |= _section(f"optimizer.{index}", state)
        tensors |= _section("extra", extra or {})
        tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        meta = {**meta, "format": FORMAT, "numpy_rng": rng.bit_generator.state}
        write_atomically(self.path, serialise(tensors, {"run": json.dumps(meta)}))

    def load(self) -> Saved:
        """Read it back; ModelError if there is none, or it is damaged."""
        try:
            with safe_open(self.path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{self.path}: no checkpoint to resume from: {error}") from error
        if meta.get("format") != FORMAT:
            raise ModelError(f"{self.path}: a checkpoint of another version of vqcodec")
        return Saved(tensors, meta)


def _section(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `Saved.section`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
