"""What a command costs: its time, and the memory of it and all processes that it starts."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.2  # seconds between two readings of the memory


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds from start to exit; peak memory in bytes, 0 where Linux does not tell it.

    Memory is the sum of the proportional set sizes: pages that processes share count once.
    """

    seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:8.2f} s  {self.peak_bytes / 1e6:6.0f} MB"


def cost_of(command: Sequence[str | Path], checkout: Path | None = None) -> Cost:
    """Run a command to its end.

    Args:
        checkout: a clone whose vqcodec a Python command is to import; None: the installed one.
    Raises:
        SystemExit: it failed; with what it said.
    """
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(INTERVAL):
            peak = max(peak, sum(map(_memory, _family(process.pid))))

    words, env, quiet = list(map(str, command)), environment(checkout), subprocess.DEVNULL
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(words, env=env, stdout=quiet, stderr=said)
        watcher = threading.Thread(target=watch)
        watcher.start()
        process.wait()
        seconds = time.perf_counter() - start
        over.set()
        watcher.join()
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)}: {said.read().decode(errors='replace')}")
    return Cost(seconds, peak)


def vqcodec_command(*words: str | Path) -> list[str]:
    """The command line tool, as the same Python would run it."""
    return [sys.executable, "-m", "vqcodec", *map(str, words)]


def environment(checkout: Path | None) -> dict[str, str]:
    """Variables under which Python imports the vqcodec of a checkout."""
    return dict(os.environ) if checkout is None else {**os.environ, "PYTHONPATH": str(checkout)}


def _family(pid: int) -> list[int]:
    """A process and all that it and its children started; those that still run."""
    found = [pid]
    for parent in found:  # grows
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, path.read_text(encoding="ascii").split())
            except OSError:  # it has ended
                continue
    return found


def _memory(pid: int) -> int:
    """Proportional set size in bytes; 0 when the process has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next(
        (1024 * int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:"), 0
    )
