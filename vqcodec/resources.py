"""Threads and memory of this process."""

import contextlib
import ctypes
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["blas_threads", "limit_blas", "trim_heap"]

_BLAS = ThreadpoolController()


def blas_threads() -> int:
    """How many threads NumPy may use here: those of the machine, or as OMP_NUM_THREADS says."""
    return max((int(library["num_threads"]) for library in _BLAS.info()), default=1)


def limit_blas(threads: int | None) -> contextlib.AbstractContextManager[Any]:
    """So many threads for NumPy's matrix products at most; None changes nothing.

    The limit is the process's: where threads set one, an outer one must hold while they run.
    """
    limits: contextlib.AbstractContextManager[Any] = _BLAS.limit(limits=threads, user_api="blas")
    return limits


def trim_heap() -> None:
    """Return freed memory to the system, where that must be asked for (glibc).

    Work in tiles leaves holes of many sizes in the heap; kept, they grow with the number of tiles.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries lack it
        ctypes.CDLL(None).malloc_trim(0)
