"""Is this machine's arithmetic exact? The probe in every configuration that it offers. No torch.

A file decodes where the frozen prior gives the frequencies that it gave when the file was made. By
construction it does so in any order of summation (`exact_prior`); this is the check on the spot.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from threadpoolctl import ThreadpoolController

from vqcodec import registry
from vqcodec.exact_prior import ExactPrior
from vqcodec.probe import probe_known, probe_walk

__all__ = ["Check", "Diagnosis", "examine", "print_table"]

OK, MISMATCH, NOT_AVAILABLE = "ok", "MISMATCH", "not available"
STYLES = {OK: "green", MISMATCH: "bold red", NOT_AVAILABLE: "dim"}
THREADS = (1, 2, 4)
BATCHES = (1, 8)
SHOWN = 12  # digits of a hash in the table, which fits 80 columns
CARRIERS = (np.float32, np.float64)

# Sets of kernels in OpenBLAS for x86-64: SSE3, SSE4.2, AVX, AVX2, AVX-512, and AMX. A build that
# lacks one takes another, and says so.
CORE_TYPES = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "SkylakeX", "SapphireRapids")
SAME = {"Katmai": "Prescott"}  # two names of one set; OpenBLAS tells the former

# The child imports from where we did, and not also from the current folder.
CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from vqcodec import doctor
print(json.dumps(doctor.probe_here(sys.argv[2])))
"""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Check:
    """One configuration; `hash` is None where it is not available, and `note` says why."""

    configuration: str
    hash: str | None
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found; `stored` is the hash in the weights file, if it has one."""

    model: str
    stored: str | None
    checks: tuple[Check, ...]

    @property
    def wanted(self) -> str | None:
        """The stored hash; without one, that of the first configuration."""
        if self.stored is not None:
            return self.stored
        return next((check.hash for check in self.checks if check.hash), None)

    def state(self, check: Check) -> str:
        if check.hash is None:
            return NOT_AVAILABLE
        return OK if check.hash == self.wanted else MISMATCH

    @property
    def exact(self) -> bool:
        return all(self.state(check) != MISMATCH for check in self.checks)

    @property
    def verdict(self) -> str:
        """One line."""
        states = [self.state(check) for check in self.checks]
        wrong, ran = states.count(MISMATCH), len(states) - states.count(NOT_AVAILABLE)
        if self.stored is None:
            said = f"{wrong} of {ran} configurations differ from the first"
            if not wrong:
                said = f"all {ran} configurations agree with each other"
            said += "; the weights file has no stored hash to compare with"
        elif wrong:
            said = f"NOT exact: {wrong} of {ran} configurations differ from the stored hash"
            if len({check.hash for check in self.checks if check.hash}) == 1:
                said += ", but agree with each other"
        else:
            said = f"exact: all {ran} configurations give the stored hash"
        return f"{self.model}: {said}"

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**asdict(check), "state": self.state(check)} for check in self.checks]
        told = {"model": self.model, "stored": self.stored, "exact": self.exact}
        return {**told, "verdict": self.verdict, "configurations": rows}


def examine(name: str, progress: Progress) -> Diagnosis:
    """Run the probe of a model in every configuration.

    Args:
        name: of the model, as for `registry.load`.
        progress: told the share done, 0..1, and what is being done.
    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    model = registry.load(name)
    total = len(CARRIERS) * len(BATCHES) * (1 + len(THREADS)) + 2 * len(CORE_TYPES)
    checks: list[Check] = []
    for part in (_here(model), _core_types(name)):
        for check in part:
            checks.append(check)
            progress(len(checks) / total, check.configuration)
    return Diagnosis(name, model.probe, tuple(checks))


def print_table(diagnosis: Diagnosis) -> None:
    """Put a row for each configuration to standard output."""
    table = Table("configuration", "hash", "", box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for check in diagnosis.checks:
        state = diagnosis.state(check)
        found = check.hash[:SHOWN] if check.hash else check.note
        table.add_row(check.configuration, Text(found), Text(state, STYLES[state]))
    Console().print(table)


def _here(model: registry.Model) -> Iterator[Check]:
    """What can be set within this process."""
    priors = [ExactPrior(model.config, model.tensors, dtype) for dtype in CARRIERS]
    settings = [(prior, batch) for prior in priors for batch in BATCHES]
    grids = None
    for prior, batch in settings:
        # Fronts of a few rows get one thread, whatever is set (`walk.MANY_ROWS`).
        found, drawn = probe_walk(prior, batch)
        grids = grids or drawn
        yield Check(f"walk, batch {batch}, {prior.dtype.__name__}", found)
    assert grids is not None
    for prior, batch in settings:
        what = f"walk_known, batch {batch}, {prior.dtype.__name__}"
        yield from _threads(what, partial(probe_known, prior, grids, batch))


def _threads(what: str, probe: Callable[[], str]) -> Iterator[Check]:
    """The probe with each number of BLAS threads."""
    pools = ThreadpoolController().select(user_api="blas")
    if not pools.lib_controllers:  # Accelerate, for one
        yield Check(f"{what}, threads as they are", probe())
    for threads in THREADS:
        label = f"{what}, {threads} thread{'s' * (threads > 1)}"
        with pools.limit(limits=threads):
            if {library.num_threads for library in pools.lib_controllers} == {threads}:
                check = Check(label, probe())
            else:
                check = Check(label, None, "the number cannot be set")
        yield check


def _core_types(name: str) -> Iterator[Check]:
    """Kernels of OpenBLAS for other processors: chosen as it loads, hence in children."""
    for core_type in CORE_TYPES:
        found, note = _child(name, core_type)
        for what in ("walk, batch 1", "walk_known, batch 8"):
            yield Check(f"{core_type} kernels: {what}", found.get(what), note)


def _child(name: str, core_type: str) -> tuple[dict[str, str], str]:
    """Hashes by configuration; none, and why, if this machine cannot do it."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {}, "not an x86-64 machine"
    pools = ThreadpoolController().select(internal_api="openblas")
    if not pools.lib_controllers:
        return {}, "BLAS is not OpenBLAS"
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, json.dumps([*map(str, sys.path)]), name],
        env={**os.environ, "OPENBLAS_CORETYPE": core_type},
        capture_output=True,
        text=True,
    )
    if done.returncode < 0:  # kernels of a newer processor end in SIGILL
        return {}, signal.Signals(-done.returncode).name
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or ["failed"])[-1]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    taken = found.pop("core type")
    if taken.lower() != core_type.lower():
        return {}, f"OpenBLAS takes {taken}"
    return found, ""


def probe_here(name: str) -> dict[str, str]:
    """In a child: the hashes, and whose kernels OpenBLAS uses."""
    pools = ThreadpoolController().select(internal_api="openblas")
    taken = next((str(library.architecture) for library in pools.lib_controllers), "none")
    prior = registry.load(name).prior
    digest, drawn = probe_walk(prior)
    known = probe_known(prior, drawn, batch=8)
    found = {"walk, batch 1": digest, "walk_known, batch 8": known}
    return {**found, "core type": SAME.get(taken, taken)}
