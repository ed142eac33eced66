"""Threads and memory of this process, and what its processor is good at."""

import contextlib
import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["fast_bfloat16", "limit_blas", "trim_heap"]

_BLAS = ThreadpoolController()


def limit_blas(threads: int | None) -> contextlib.AbstractContextManager[Any]:
    """So many threads for NumPy's matrix products at most, in this process; None: as it was."""
    limits: contextlib.AbstractContextManager[Any] = _BLAS.limit(limits=threads, user_api="blas")
    return limits


def trim_heap() -> None:
    """Return freed memory to the system, where that must be asked for (glibc).

    Work in tiles leaves holes of many sizes in the heap; kept, they grow with the number of tiles.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries lack it
        ctypes.CDLL(None).malloc_trim(0)


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, as far as torch can tell."""
    import torch

    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    able = ask()  # older versions do not say
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
