"""Threads and memory of this process, and what its processor is good at."""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["fast_bfloat16", "fast_int8", "limit_threads", "trim_heap"]

_BLAS = ThreadpoolController()


@contextlib.contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """So many threads for matrix products at most, of NumPy and of torch; None: as it was."""
    with _BLAS.limit(limits=threads, user_api="blas"):
        torch = sys.modules.get("torch")
        if threads is None or torch is None:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(min(threads, before))
        try:
            yield
        finally:
            torch.set_num_threads(before)


def trim_heap() -> None:
    """Return freed memory to the system, where that must be asked for (glibc).

    Work in tiles leaves holes of many sizes in the heap; kept, they grow with the number of tiles.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries lack it
        ctypes.CDLL(None).malloc_trim(0)


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, as far as torch can tell."""
    return _able("avx512_bf16", "amx_bf16")


def fast_int8() -> bool:
    """The same for int8."""
    return _able("avx_vnni", "avx512_vnni", "amx_int8")


def _able(*capabilities: str) -> bool:
    """Whether the processor has one of these."""
    import torch

    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    able = ask()  # older versions do not say
    return any(able.get(name) for name in capabilities)
