"""Threads and memory of the process."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqcodec import codec, resources
from vqcodec.resources import fast_bfloat16, fast_int8, limit_threads, trim_heap


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_limits_hold_and_end() -> None:
    def threads() -> list[int]:
        known = resources._BLAS.info()  # others, such as SciPy's, may have come since
        blas = [info["num_threads"] for info in known if info["user_api"] == "blas"]
        return [*blas, torch.get_num_threads()]

    before = threads()
    with limit_threads(1):
        assert threads() == [1] * len(before)
        with limit_threads(None):
            assert threads() == [1] * len(before)
    assert threads() == before and min(before) >= 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_goes_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("a C library without malloc_trim")
    trim_heap()
    before = resident()
    parts = [np.ones(2_000) for _ in range(20_000)]  # 16 kB each: from the heap, 320 MB in all
    assert resident() - before > 250e6
    last = parts[-1]  # stays, at the heap's end, so that the heap cannot shrink by itself
    del parts
    trim_heap()
    assert resident() - before < 50e6
    assert last[0] == 1


@pytest.mark.parametrize("fault", [AttributeError, OSError, TypeError])
def test_systems_without_it_are_no_fault(
    fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: None) -> None:
        raise fault

    monkeypatch.setattr(ctypes, "CDLL", absent)
    trim_heap()


def test_every_tile_ends_with_it(
    tiny_weights: dict[str, Path], small_tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(codec, "trim_heap", lambda: calls.append(None))
    model = str(tiny_weights["residual"])
    codec.compress(Image.new("RGB", (100, 20)), effort=0, model=model)
    assert len(calls) == 4
    codec.compress(Image.new("RGB", (20, 20)), effort=0, model=model)
    assert len(calls) == 4


def test_numbers_of_few_bits_are_used_where_torch_knows_that_they_are_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {fast_bfloat16(), fast_int8()} <= {False, True}
    for able, bfloat16, int8 in (
        ({"avx2": True, "avx512_bf16": False}, False, False),
        ({"avx512_bf16": True}, True, False),
        ({"avx512_bf16": False, "avx512_vnni": True}, False, True),
        ({"avx_vnni": True}, False, True),
        ({"amx_bf16": True, "amx_int8": True}, True, True),
        ({"architecture": "aarch64", "bf16": True}, False, False),  # nobody measured it
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert fast_bfloat16() is bfloat16
        assert fast_int8() is int8
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fast_bfloat16() is fast_int8() is False
