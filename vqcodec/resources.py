"""Threads and memory of this process."""

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["blas_threads", "in_threads", "limit_blas", "trim_heap"]

T = TypeVar("T")
R = TypeVar("R")

_BLAS = ThreadpoolController()
MOST = 4  # threads: each holds the features of a tile, 60 MB for a large one


def blas_threads() -> int:
    """How many threads NumPy may use here: those of the machine, or as OMP_NUM_THREADS says."""
    blas = [library for library in _BLAS.info() if library["user_api"] == "blas"]
    return max((int(library["num_threads"]) for library in blas), default=1)


def limit_blas(threads: int | None) -> contextlib.AbstractContextManager[Any]:
    """So many threads for NumPy's matrix products at most; None changes nothing.

    The limit is the process's: where threads set one, an outer one must hold while they run.
    """
    limits: contextlib.AbstractContextManager[Any] = _BLAS.limit(limits=threads, user_api="blas")
    return limits


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """The results of `work`, in order, by as many threads as NumPy may use, 4 at most.

    They are only a few items ahead of what is taken. Close it, if it is not taken to its end.
    """
    threads = min(blas_threads(), MOST, max(len(items), 1))
    ahead: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads)
    with limit_blas(1 if len(items) > 1 else None):
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def trim_heap() -> None:
    """Return freed memory to the system, where that must be asked for (glibc).

    Work in tiles leaves holes of many sizes in the heap; kept, they grow with the number of tiles.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries lack it
        ctypes.CDLL(None).malloc_trim(0)
