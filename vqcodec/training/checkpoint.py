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
from torch.optim.swa_utils import AveragedModel

from vqcodec.errors import ModelError
from vqcodec.files import write_atomically

__all__ = ["Checkpoint", "Saved"]


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

    def restore_loop(
        self, optimizer: torch.optim.Optimizer, averaged: AveragedModel, extra: dict[str, Tensor]
    ) -> None:
        averaged.load_state_dict(self.section("averaged"))
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
        optimizer: torch.optim.Optimizer,
        averaged: AveragedModel,
        rng: np.random.Generator,
        extra: Mapping[str, Tensor],
    ) -> None:
        """Write everything that the rest of the run depends on.

        Raises:
            OSError: the file cannot be written; the checkpoint before it stays.
        """
        tensors = {"rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng_cuda"] = torch.cuda.get_rng_state()
        for name, module in {**modules, "averaged": averaged}.items():
            tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        tensors |= {f"extra.{name}": value for name, value in extra.items()}
        tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        meta = {**meta, "numpy_rng": rng.bit_generator.state}
        write_atomically(self.path, serialise(tensors, {"run": json.dumps(meta)}))

    def load(self) -> Saved:
        """Read it back; ModelError if there is none, or it is damaged."""
        try:
            with safe_open(self.path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{self.path}: no checkpoint to resume from: {error}") from error
        return Saved(tensors, meta)
