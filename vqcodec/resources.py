"""Threads and memory of this process, and the number types that its processor is fast in."""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = [
    *("fast_bfloat16", "fast_int8", "trim_heap"),
    *("limit_threads", "set_threads", "wait_passively"),
]


def wait_passively() -> None:
    """Make OpenMP threads sleep while they wait for work, unless the user has set otherwise.

    By default they spin, which on a busy machine takes processors from the threads that they wait
    for (`benchmarks/threads.py`). To be called by a program, not a library, before torch loads:
    it changes the environment.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # of the libraries of LLVM and Intel


def set_threads(threads: int) -> None:
    """Use `threads` threads in this process and in those that it starts.

    To be called by a program, not a library: it changes the environment, which libraries that load
    later read.

    Raises:
        ValueError: fewer than one.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    with _LOCK:
        for pool in ThreadpoolController().lib_controllers:
            _resize(pool, threads)
    if _torch_is_loaded():
        sys.modules["torch"].set_num_threads(threads)


@contextlib.contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Limit BLAS and torch to `threads`; None leaves them unchanged.

    Limits may overlap, in any threads and any order: the smallest one counts, and the end of the
    last one restores what was before the first. OpenBLAS has one number of threads for the whole
    process, so a limit affects other threads too. OpenMP, hence torch, has a number for each
    thread, so a limit should end in the thread where it began. If it ends in another one (a
    generator may be closed anywhere), the first thread stays limited until it next calls this.
    """
    if threads is None:
        yield
        return
    limit, own = object(), _of_this_thread()
    try:
        with _LOCK:
            process_pools, thread_pools = _pools("numpy" in sys.modules, _torch_is_loaded())
            _PROCESS.start(limit, threads, process_pools)
            own.start(limit, threads, thread_pools)
        yield
    finally:
        with _LOCK:
            _PROCESS.end(limit)
            own.end(limit, apply=own is _of_this_thread())


class _Limits:
    """Limits in force on some pools of threads, and the sizes of these pools without any."""

    def __init__(self) -> None:
        self.in_force: dict[object, int] = {}
        self._sizes: dict[str, tuple[Any, int]] = {}  # by path of the library

    def start(self, limit: object, threads: int, pools: Iterable[Any]) -> None:
        self.in_force[limit] = threads
        for pool in pools:
            if pool.filepath not in self._sizes and (size := pool.num_threads):
                self._sizes[pool.filepath] = pool, size
        self.apply()

    def end(self, limit: object, apply: bool = True) -> None:
        """End a limit, which need not have started. Without `apply`, the next call restores."""
        self.in_force.pop(limit, None)
        if apply:
            self.apply()

    def apply(self) -> None:
        for pool, size in list(self._sizes.values()):  # garbage collected here may end a limit
            _resize(pool, min([size, *self.in_force.values()]))
        if not self.in_force:
            self._sizes.clear()


def _resize(pool: Any, threads: int) -> None:
    # threadpoolctl lets a single thread resize OpenBLAS and ignores the others. Here every thread
    # may, one after the other.
    take_control = getattr(pool, "clear_controlling_thread", None)
    if take_control:
        take_control(force=True)
    pool.set_num_threads(threads)
    if take_control:
        take_control(force=True)


_LOCK = threading.RLock()  # of all limits
_PROCESS = _Limits()
_THREADS = threading.local()


def _of_this_thread() -> _Limits:
    if not hasattr(_THREADS, "limits"):
        _THREADS.limits = _Limits()
    limits: _Limits = _THREADS.limits
    return limits


def _torch_is_loaded() -> bool:
    """Whether torch can be asked; another thread may be loading it."""
    get_num_threads = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if get_num_threads:
        get_num_threads()  # the first call in each thread sets that thread's number
    return get_num_threads is not None


@functools.cache
def _pools(with_numpy: bool, with_torch: bool) -> tuple[list[Any], list[Any]]:
    """The pools of BLAS and OpenMP: those of the process, and those that each thread has.

    Args:
        with_numpy, with_torch: whether these are loaded, and with them their libraries.
    """
    process, thread = list[Any](), list[Any]()
    for pool in ThreadpoolController().lib_controllers:
        layer = getattr(pool, "threading_layer", None)
        per_thread = "openmp" in (pool.user_api, layer) or pool.internal_api == "mkl"
        (thread if per_thread else process).append(pool)
    return process, thread


def _after_fork_in_child() -> None:
    """End the limits of other threads, which do not exist in a child."""
    _LOCK.release()
    own = _of_this_thread().in_force
    for limit in [limit for limit in _PROCESS.in_force if limit not in own]:
        _PROCESS.end(limit)


if hasattr(os, "register_at_fork"):  # else a child could wait for ever for a lock of another thread
    os.register_at_fork(
        before=_LOCK.acquire,
        after_in_parent=_LOCK.release,
        after_in_child=_after_fork_in_child,
    )


def trim_heap() -> None:
    """Return freed memory to the system, where it does not return by itself (glibc).

    Coding a tile leaves holes of many sizes in the heap, which grow with the number of tiles.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries lack it
        ctypes.CDLL(None).malloc_trim(0)


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32, according to torch."""
    return _has("avx512_bf16", "amx_bf16")


def fast_int8() -> bool:
    """Whether this processor multiplies int8 faster than float32, according to torch."""
    return _has("avx_vnni", "avx512_vnni", "amx_int8")


def _has(*capabilities: str) -> bool:
    """Whether the processor has one of these; not, if this version of torch cannot tell."""
    import torch

    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = ask()
    return any(found.get(name) for name in capabilities)
