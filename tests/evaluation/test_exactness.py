"""The probe in child processes, with other kernels."""

import platform
import sys
from pathlib import Path

import pytest

from vqcodec import models
from vqcodec.evaluation import exactness

NEHALEM = ("OPENBLAS_CORETYPE", "Nehalem", "float32")


def test_a_child_uses_the_kernels_asked_for(tiny_weights: dict[str, Path]) -> None:
    path = str(tiny_weights["vq-vae"])
    found, note = exactness._child(path, *NEHALEM)
    if not note:
        assert found.pop("kernels")
        assert set(found.values()) == {models.load(path).probe}
    else:
        assert not found


@pytest.mark.slow
def test_int8_is_used_only_where_its_sums_are_right(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without VNNI, kernels add two products in 16 bits, which saturate."""
    path = str(tiny_weights["vq-vae"])
    for most in ("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_AMX"):
        found, note = exactness._child(path, "ONEDNN_MAX_CPU_ISA", most, "int8")
        found.pop("kernels", None)
        assert set(found.values()) == {models.load(path).probe} or note
    monkeypatch.setattr(exactness, "int8_is_right", lambda: False)
    assert exactness.probe_here(path, "int8") == {}
    (check,) = exactness._int8_here(models.load(path))
    assert (check.hash, check.note) == (None, exactness.INEXACT)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_children_that_fail_are_not_available(
    tiny_weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tiny_weights["vq-vae"])
    if exactness._child(path, *NEHALEM)[1]:
        pytest.skip("no other kernels here")
    for code, note in [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("import sys; sys.exit('first\\nlast')", "last"),
        ("import sys; sys.exit(3)", "failed"),
    ]:
        monkeypatch.setattr(exactness, "CHILD", code)
        assert exactness._child(path, *NEHALEM) == ({}, note)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert exactness._child(path, *NEHALEM) == ({}, "not an x86-64 machine")
