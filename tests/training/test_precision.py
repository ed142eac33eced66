"""bfloat16 where the processor has it, float32 elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_options

from vqcodec.networks.autoencoder import Autoencoder
from vqcodec.options import ignore
from vqcodec.prior.network import Prior
from vqcodec.training import precision, train


@pytest.mark.parametrize("able", [True, False])
def test_networks_run_in_bfloat16_only_where_it_is_fast(
    tmp_path: Path,
    tiny_weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    able: bool,
) -> None:
    """All of them, in both phases: `init` adds decoder and codebooks to the second."""
    seen: dict[str, set[bool]] = {}
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: able)

    def listen(kind: type[torch.nn.Module], name: str) -> None:
        method = getattr(kind, name)

        def call(*args: Any, **options: Any) -> Any:
            seen.setdefault(name, set()).add(torch.is_autocast_enabled("cpu"))
            return method(*args, **options)

        monkeypatch.setattr(kind, name, call)

    for kind, name in ((Autoencoder, "encode"), (Autoencoder, "decode"), (Prior, "forward")):
        listen(kind, name)
    listen(Prior, "coded_bits")
    train.run(tiny_options(tmp_path, init=tiny_weights["vq-vae-2"], steps=4), ignore)
    assert seen == dict.fromkeys(("encode", "decode", "forward", "coded_bits"), {able})


def test_one_place_decides_on_the_precision() -> None:
    for path in Path(train.__file__).parent.glob("*.py"):
        assert path.stem == "precision" or "torch.autocast" not in path.read_text(encoding="utf-8")
