"""Whether this machine's arithmetic is exact: the probe in every configuration that it offers.

A file decodes only if the frozen prior gives the frequencies that it gave when the file was made.
By design it does, in any order of summation (`integer_prior`); here that is tried with every number
of threads, number type and set of kernels that there is. `vqcodec doctor` prints the result.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from vqcodec import models
from vqcodec.prior.arithmetic import (
    INT8_KERNELS,
    INT8_KERNELS_VARIABLE,
    FloatArithmetic,
    Int8Arithmetic,
    int8_is_right,
    int8_threads,
)
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.probe import Grids, probe_known, probe_scan

__all__ = ["MISMATCH", "NOT_AVAILABLE", "OK", "Check", "Diagnosis", "examine", "probe_here"]

OK, MISMATCH, NOT_AVAILABLE = "ok", "MISMATCH", "not available"
INEXACT = "inexact: not used"

THREADS = (1, 2, 4)
BATCHES = (1, 8)
FLOATS = (FloatArithmetic(), FloatArithmetic(np.float64))
ALL_INT8 = Int8Arithmetic(least=0)

# Sets of kernels in OpenBLAS for x86-64: SSE3, SSE4.2, AVX, AVX2, AVX-512, and AMX. A build that
# lacks one takes another, and says so.
CORE_TYPES = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "SkylakeX", "SapphireRapids")
SAME = {"Katmai": "Prescott"}  # OpenBLAS reports the second set by the first name
IN_CHILDREN = ("scan, batch 1", "scan_known, batch 8")

# A child imports from where this process did, and not also from the current folder.
CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from vqcodec.evaluation import exactness
print(json.dumps(exactness.probe_here(*sys.argv[2:])))
"""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Check:
    """One configuration and the hash that the probe gave.

    The hash is None where the configuration is not available; `note` then says why.
    """

    configuration: str
    hash: str | None
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found; `stored` is the hash in the weights file, None if it has none."""

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
        """All of it, for JSON."""
        rows = [{**asdict(check), "state": self.state(check)} for check in self.checks]
        return {
            "model": self.model,
            "stored": self.stored,
            "exact": self.exact,
            "verdict": self.verdict,
            "configurations": rows,
        }


def examine(name: str, progress: Progress) -> Diagnosis:
    """Run the probe of a model in every configuration.

    Args:
        name: of the model, as for `models.load`.
        progress: called with the share that is done, 0..1, and the configuration just tried.
    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    model = models.load(name)
    total = (len(FLOATS) + 1) * len(BATCHES) * (1 + len(THREADS))
    total += len(IN_CHILDREN) * (len(CORE_TYPES) + len(INT8_KERNELS))
    checks: list[Check] = []
    for part in (_here(model), _core_types(name), _int8_here(model), _int8_kernels(name)):
        for check in part:
            checks.append(check)
            progress(len(checks) / total, check.configuration)
    return Diagnosis(name, model.probe, tuple(checks))


def _here(model: models.Model) -> Iterator[Check]:
    """What can be set within this process."""
    settings = [(model.prior_in(arithmetic), batch) for arithmetic in FLOATS for batch in BATCHES]
    grids = yield from _scans(settings)
    for prior, batch in settings:
        what = f"scan_known, batch {batch}, {prior.arithmetic.name}"
        yield from _threads(what, partial(probe_known, prior, grids, batch))


def _int8_here(model: models.Model) -> Iterator[Check]:
    """Products of int8, in this process."""
    if not int8_is_right():
        yield Check("int8", None, INEXACT)
        return
    prior = model.prior_in(ALL_INT8)
    grids = yield from _scans([(prior, batch) for batch in BATCHES])
    for batch, threads in itertools.product(BATCHES, THREADS):
        with int8_threads(threads):
            found = probe_known(prior, grids, batch)
        yield Check(_with_threads(f"scan_known, batch {batch}, int8", threads), found)


def _scans(
    settings: Sequence[tuple[IntegerPrior, int]],
) -> Generator[Check, None, Sequence[Grids]]:
    """`probe_scan` with each prior and batch; returns the grids that the first drew."""
    grids: Sequence[Grids] = ()
    for prior, batch in settings:
        # With so few rows a step gets one thread, whatever is set (`wavefront_scan.MANY_ROWS`).
        found, drawn = probe_scan(prior, batch)
        grids = grids or drawn
        yield Check(f"scan, batch {batch}, {prior.arithmetic.name}", found)
    return grids


def _with_threads(what: str, threads: int) -> str:
    return f"{what}, {threads} thread{'s' * (threads > 1)}"


def _threads(what: str, probe: Callable[[], str]) -> Iterator[Check]:
    """The probe with each number of BLAS threads."""
    pools = ThreadpoolController().select(user_api="blas")
    if not pools.lib_controllers:  # not known to threadpoolctl, such as Apple's Accelerate
        yield Check(f"{what}, threads as they are", probe())
    for threads in THREADS:
        label = _with_threads(what, threads)
        with pools.limit(limits=threads):
            if {library.num_threads for library in pools.lib_controllers} == {threads}:
                check = Check(label, probe())
            else:
                check = Check(label, None, "the number cannot be set")
        yield check


def _core_types(name: str) -> Iterator[Check]:
    """Kernels of OpenBLAS for other processors; chosen as it loads, hence in child processes."""
    pools = ThreadpoolController().select(internal_api="openblas")
    for core_type in CORE_TYPES:
        found, note = dict[str, str](), "BLAS is not OpenBLAS"
        if pools.lib_controllers:
            found, note = _child(name, "OPENBLAS_CORETYPE", core_type, FLOATS[0].name)
        if found and (taken := found["kernels"]).lower() != core_type.lower():
            found, note = {}, f"OpenBLAS takes {taken}"
        for what in IN_CHILDREN:
            yield Check(f"{core_type} kernels: {what}", found.get(what), note)


def _int8_kernels(name: str) -> Iterator[Check]:
    """Kernels for products of int8 on other processors; in child processes, too."""
    for kernels in INT8_KERNELS:
        found, note = _child(name, INT8_KERNELS_VARIABLE, kernels, ALL_INT8.name)
        for what in IN_CHILDREN:
            yield Check(f"int8 with {kernels}: {what}", found.get(what), note)


def _child(name: str, variable: str, value: str, arithmetic: str) -> tuple[dict[str, str], str]:
    """What `probe_here` finds in a process with this environment variable.

    Where that cannot be done, nothing, and why.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {}, "not an x86-64 machine"
    path = json.dumps([*map(str, sys.path)])
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, path, name, arithmetic],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
    )
    if done.returncode < 0:  # SIGILL, where the kernels need a newer processor
        return {}, signal.Signals(-done.returncode).name
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or ["failed"])[-1]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found, "" if found else INEXACT


def probe_here(name: str, arithmetic: str) -> dict[str, str]:
    """What a child process does: the hashes by `IN_CHILDREN`, and the set of kernels of OpenBLAS.

    Nothing, where it should multiply int8 and its sums are not right.
    """
    pools = ThreadpoolController().select(internal_api="openblas")
    taken = next((str(library.architecture) for library in pools.lib_controllers), "none")
    if arithmetic == ALL_INT8.name and not int8_is_right():
        return {}
    prior = models.load(name).prior_in(ALL_INT8 if arithmetic == ALL_INT8.name else FLOATS[0])
    digest, drawn = probe_scan(prior)
    known = probe_known(prior, drawn, batch=8)
    hashes = dict(zip(IN_CHILDREN, (digest, known), strict=True))
    return hashes | {"kernels": SAME.get(taken, taken)}
