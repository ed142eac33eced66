"""Threads and memory of this process."""

import contextlib
import ctypes
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["limit_blas", "trim_heap"]

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
