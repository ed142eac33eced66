"""Threads and memory of the process."""

import ctypes
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import GOLDEN
from PIL import Image
from threadpoolctl import ThreadpoolController

from vqcodec import codec, resources
from vqcodec.encoder import encode
from vqcodec.errors import BitstreamError
from vqcodec.resources import (
    fast_bfloat16,
    fast_int8,
    limit_threads,
    set_threads,
    trim_heap,
)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def counts() -> list[int]:
    """Threads of each library, as this thread sees them."""
    of_torch = torch.get_num_threads()  # first, since its first call in a thread sets them
    return [of_torch, *(info["num_threads"] for info in ThreadpoolController().info())]


@pytest.fixture
def two_threads() -> Iterator[list[int]]:
    """The counts of a process in which every library has two threads, which the test must keep."""
    resources._pools.cache_clear()  # other tests may have loaded more libraries since
    before = torch.get_num_threads()
    with ThreadpoolController().limit(limits=2):
        torch.set_num_threads(2)
        try:
            assert set(found := counts()) == {2}
            yield found
            assert counts() == found
        finally:
            torch.set_num_threads(before)


def test_limits_hold_and_end(two_threads: list[int]) -> None:
    ones = [1] * len(two_threads)
    with limit_threads(1):
        assert counts() == ones
        with limit_threads(None):
            assert counts() == ones
        with limit_threads(2):
            assert counts() == ones
        assert counts() == ones
    assert counts() == two_threads
    with limit_threads(8):
        assert counts() == two_threads


def test_limits_end_with_exceptions(two_threads: list[int]) -> None:
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), limit_threads(1):
            raise error


def limited(log: list[str]) -> Generator[None, None, None]:
    with limit_threads(1):
        while True:
            log.append("step")
            yield


def test_limits_end_in_any_order(two_threads: list[int]) -> None:
    first, second, third = (limited([]) for _ in range(3))
    for generator in (first, second, third):
        next(generator)
    for generator in (first, third):
        generator.close()
        assert counts() == [1] * len(two_threads)
    del second
    assert counts() == two_threads


def test_a_limit_that_ends_in_another_thread_ends(two_threads: list[int]) -> None:
    generator = limited([])
    next(generator)

    def end() -> list[int]:
        generator.close()
        return counts()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(end).result() == two_threads
    with limit_threads(1):  # which this thread needs for what is its own
        assert set(counts()) == {1}


def test_threads_that_begin_under_a_limit_are_free_after_it(two_threads: list[int]) -> None:
    with ThreadPoolExecutor(1) as pool:
        with limit_threads(1):
            with_limit = pool.submit(_within, 1).result()
        assert set(with_limit) == {1} and pool.submit(counts).result() == two_threads


def _within(threads: int) -> list[int]:
    with limit_threads(threads):
        return counts()


def test_limits_overlap_at_random(two_threads: list[int]) -> None:
    """Threads that each hold several generators, and compress and decompress between them."""
    model, image = str(GOLDEN / "v0" / "tiny.safetensors"), Image.new("RGB", (40, 30), (90, 20, 5))
    whole = codec.compress(image, effort=0, model=model)
    want = codec.decompress(whole, model=model).tobytes()

    def work(seed: int) -> list[int]:
        rng, held = random.Random(seed), list[Iterator[None]]()
        for _ in range(40):
            action = rng.random()
            if action < 0.4:
                held.append(limited([]))
                next(held[-1])
            elif action < 0.8 and held:
                held.pop(rng.randrange(len(held)))
            elif action < 0.9:
                with pytest.raises(BitstreamError), limit_threads(rng.choice([1, 2, None])):
                    codec.decompress(whole[:-1], model=model)
            elif action < 0.95:
                assert codec.compress(image, effort=0, model=model) == whole
            else:
                assert codec.decompress(whole, model=model).tobytes() == want
            assert not held or set(counts()) == {1}
        held.clear()
        return [torch.get_num_threads()]

    with ThreadPoolExecutor(6) as pool:
        assert set(chain(*pool.map(work, range(6)))) == {2}


def test_torch_that_is_being_loaded_is_left_alone(
    two_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with limit_threads(1), monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", ModuleType("torch"))
        with limit_threads(1):
            pass


LATE = """
import numpy
from threadpoolctl import ThreadpoolController
from vqcodec.resources import limit_threads

def counts():
    return {info["num_threads"] for info in ThreadpoolController().info()}

ThreadpoolController().limit(limits=2)
assert counts() == {2}
with limit_threads(1):
    import torch
    torch.set_num_threads(2)
    with limit_threads(1):
        assert counts() == {1}
    assert counts() == {1}
assert counts() == {2}
"""


def test_torch_may_be_loaded_under_a_limit() -> None:
    subprocess.run([sys.executable, "-c", LATE], check=True)


SET = """
import sys
from threadpoolctl import ThreadpoolController
from vqcodec.resources import set_threads
if sys.argv[1] == "before":
    set_threads(1)
import numpy, torch
if sys.argv[1] == "after":
    set_threads(1)

def counts():
    return {info["num_threads"] for info in ThreadpoolController().info()}

assert counts() == {1} and torch.get_num_threads() == 1
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.slow
def test_threads_can_be_set_before_and_after_libraries_load(when: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    subprocess.run([sys.executable, "-c", SET, when], env=environment, check=True)


def test_there_is_at_least_one_thread() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        set_threads(0)


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_the_command_lets_threads_sleep_unless_told_otherwise(given: str | None) -> None:
    code = """
import os, sys
from vqcodec import __main__
from vqcodec.cli import app
app.app = lambda **_: print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
__main__.main()
"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [given or "PASSIVE", "False"]


def test_a_program_that_imports_us_keeps_its_environment() -> None:
    code = """
import os
from vqcodec import codec, resources
import vqcodec.resources
assert not {"OMP_WAIT_POLICY", "KMP_BLOCKTIME"} & set(os.environ)
"""
    names = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.slow
def test_a_child_has_only_the_limits_of_its_thread(two_threads: list[int]) -> None:
    data = (GOLDEN / "v0" / "tiny.vqc").read_bytes()

    def child() -> bool:
        own = set(counts()) == {1}
        with limit_threads(1):
            codec.verify(data, str(GOLDEN / "v0" / "tiny.safetensors"))
        return own and set(counts()) == {1}

    entered, leave, busy = Event(), Event(), Event()

    def hold() -> None:
        with limit_threads(1):
            entered.set()
            leave.wait()

    def enter_and_leave() -> None:
        while not busy.is_set():
            with limit_threads(1):
                pass

    others = [Thread(target=hold), Thread(target=enter_and_leave)]
    for other in others:
        other.start()
    entered.wait()
    try:
        for _ in range(20):
            assert in_child(lambda: counts() == two_threads)
        with limit_threads(1):
            assert in_child(child)
    finally:
        leave.set()
        busy.set()
        for other in others:
            other.join()


def in_child(check: Callable[[], bool]) -> bool:
    """What a check gives in a forked child; False if it fails, or has not ended in a minute."""
    if (number := os.fork()) == 0:
        status = 1
        try:
            signal.alarm(60)
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitpid(number, 0)[1] == 0


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
    monkeypatch.setattr(encode, "trim_heap", lambda: calls.append(None))
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
