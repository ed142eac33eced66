"""Is this machine's arithmetic exact? The probe in every configuration that it offers.

A file decodes where the frozen prior gives the frequencies that it gave when the file was made. By
construction it does so in any order of summation (`integer_prior`); this is the check on the spot.
Torch is loaded last, for its products of int8.
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
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from threadpoolctl import ThreadpoolController

from vqcodec import models
from vqcodec.prior.arithmetic import FloatArithmetic, Int8Arithmetic, int8_is_right
from vqcodec.prior.integer_prior import IntegerPrior
from vqcodec.prior.probe import Grids, probe_known, probe_scan

__all__ = ["Check", "Diagnosis", "examine", "print_table"]

OK, MISMATCH, NOT_AVAILABLE = "ok", "MISMATCH", "not available"
STYLES = {OK: "green", MISMATCH: "bold red", NOT_AVAILABLE: "dim"}
THREADS = (1, 2, 4)
BATCHES = (1, 8)
INEXACT = "inexact: not used"
SHOWN = 12  # digits of a hash in the table, which fits 80 columns
FLOATS = (FloatArithmetic(), FloatArithmetic(np.float64))
ALL_INT8 = Int8Arithmetic(least=0)

# Sets of kernels in OpenBLAS for x86-64: SSE3, SSE4.2, AVX, AVX2, AVX-512, and AMX. A build that
# lacks one takes another, and says so.
CORE_TYPES = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "SkylakeX", "SapphireRapids")
SAME = {"Katmai": "Prescott"}  # two names of one set; OpenBLAS tells the former
CHILDREN_DO = ("scan, batch 1", "scan_known, batch 8")
# Those of oneDNN, which torch multiplies int8 with: without VNNI, with, and with AMX.
INSTRUCTION_SETS = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_AMX")

# The child imports from where we did, and not also from the current folder.
CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from vqcodec.cli import doctor
print(json.dumps(doctor.probe_here(*sys.argv[2:])))
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
        name: of the model, as for `models.load`.
        progress: told the share done, 0..1, and what is being done.
    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    model = models.load(name)
    total = (len(FLOATS) + 1) * len(BATCHES) * (1 + len(THREADS))
    total += 2 * (len(CORE_TYPES) + len(INSTRUCTION_SETS))
    checks: list[Check] = []
    for part in (_here(model), _core_types(name), _int8_here(model), _instruction_sets(name)):
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


def _here(model: models.Model) -> Iterator[Check]:
    """What can be set within this process."""
    settings = [(model.prior_in(arithmetic), batch) for arithmetic in FLOATS for batch in BATCHES]
    grids = yield from _scans(settings)
    for prior, batch in settings:
        what = f"scan_known, batch {batch}, {prior.arithmetic.name}"
        yield from _threads(what, partial(probe_known, prior, grids, batch))


def _int8_here(model: models.Model) -> Iterator[Check]:
    """Products of int8, which are used where the processor is made for them."""
    import torch

    if not int8_is_right():
        yield Check("int8", None, INEXACT)
        return
    prior, before = model.prior_in(ALL_INT8), torch.get_num_threads()
    grids = yield from _scans([(prior, batch) for batch in BATCHES])
    for batch, threads in itertools.product(BATCHES, THREADS):
        torch.set_num_threads(threads)
        try:
            found = probe_known(prior, grids, batch)
        finally:
            torch.set_num_threads(before)
        yield Check(_with_threads(f"scan_known, batch {batch}, int8", threads), found)


def _scans(
    settings: Sequence[tuple[IntegerPrior, int]],
) -> Generator[Check, None, Sequence[Grids]]:
    """`probe_scan` with each prior and batch; returns the grids that the first drew."""
    grids: Sequence[Grids] = ()
    for prior, batch in settings:
        # Wavefronts of a few rows get one thread, whatever is set (`scan.MANY_ROWS`).
        found, drawn = probe_scan(prior, batch)
        grids = grids or drawn
        yield Check(f"scan, batch {batch}, {prior.arithmetic.name}", found)
    return grids


def _with_threads(what: str, threads: int) -> str:
    return f"{what}, {threads} thread{'s' * (threads > 1)}"


def _threads(what: str, probe: Callable[[], str]) -> Iterator[Check]:
    """The probe with each number of BLAS threads."""
    pools = ThreadpoolController().select(user_api="blas")
    if not pools.lib_controllers:  # Accelerate, for one
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
    """Kernels of OpenBLAS for other processors: chosen as it loads, hence in children."""
    pools = ThreadpoolController().select(internal_api="openblas")
    for core_type in CORE_TYPES:
        found, note = dict[str, str](), "BLAS is not OpenBLAS"
        if pools.lib_controllers:
            found, note = _child(name, "OPENBLAS_CORETYPE", core_type, FLOATS[0].name)
        if found and (taken := found["kernels"]).lower() != core_type.lower():
            found, note = {}, f"OpenBLAS takes {taken}"
        for what in CHILDREN_DO:
            yield Check(f"{core_type} kernels: {what}", found.get(what), note)


def _instruction_sets(name: str) -> Iterator[Check]:
    """Kernels of oneDNN for products of int8 on other processors."""
    for most in INSTRUCTION_SETS:
        found, note = _child(name, "ONEDNN_MAX_CPU_ISA", most, ALL_INT8.name)
        for what in CHILDREN_DO:
            yield Check(f"int8 with {most}: {what}", found.get(what), note)


def _child(name: str, variable: str, value: str, arithmetic: str) -> tuple[dict[str, str], str]:
    """What `probe_here` finds where a variable is set; nothing, and why, if it cannot be done."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {}, "not an x86-64 machine"
    path = json.dumps([*map(str, sys.path)])
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, path, name, arithmetic],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
    )
    if done.returncode < 0:  # kernels of a newer processor end in SIGILL
        return {}, signal.Signals(-done.returncode).name
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or ["failed"])[-1]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found, "" if found else INEXACT


def probe_here(name: str, arithmetic: str) -> dict[str, str]:
    """In a child: the hashes, and whose kernels OpenBLAS uses; nothing where int8 is not right."""
    pools = ThreadpoolController().select(internal_api="openblas")
    taken = next((str(library.architecture) for library in pools.lib_controllers), "none")
    if arithmetic == ALL_INT8.name and not int8_is_right():
        return {}
    prior = models.load(name).prior_in(ALL_INT8 if arithmetic == ALL_INT8.name else FLOATS[0])
    digest, drawn = probe_scan(prior)
    known = probe_known(prior, drawn, batch=8)
    return dict(zip(CHILDREN_DO, (digest, known), strict=True)) | {
        "kernels": SAME.get(taken, taken)
    }
