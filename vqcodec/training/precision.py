"""In which precision the networks are trained."""

import torch

from vqcodec.resources import fast_bfloat16

__all__ = ["autocast"]


def autocast(device: str) -> torch.autocast:
    """bfloat16 for the networks on a GPU, and on a processor that has it; float32 elsewhere.

    A processor without bfloat16 emulates it, which takes about twice as long as float32.

    Args:
        device: type of the device, as `Tensor.device.type`.
    """
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or fast_bfloat16())
