"""What a figure was measured on: `python benchmarks/machine.py` prints it.

The other benchmarks print the same before their figures.
"""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import vqcodec

# As Linux and torch call them: what decides how fast networks (bfloat16) and prior (int8) are.
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
LIBRARIES = ("numpy", "torch", "pillow", "constriction")


def describe(package: Path = Path(vqcodec.__file__).parent) -> str:
    """Processor, cores, instruction sets, load, versions, and the commit of the package."""
    processor, flags = _processor()
    known = [name for name in INSTRUCTIONS if name in flags]
    load = "unknown"
    if hasattr(os, "getloadavg"):
        load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    rows = {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "instructions": " ".join(known) or "unknown",
        "load average": f"{load} (1, 5 and 15 minutes)",
        "versions": ", ".join([f"Python {platform.python_version()}", *map(_version, LIBRARIES)]),
        "vqcodec": f"{vqcodec.__version__}, {commit(package)}",
    }
    return "\n".join(f"{name:12}  {value}" for name, value in rows.items())


def commit(folder: Path) -> str:
    """The commit that a folder is at, marked where files have changed since."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no checkout"
    return f"commit {found.stdout.strip()}"


def _processor() -> tuple[str, set[str]]:
    """Name and flags of the processor; few systems but Linux tell the flags."""
    fields: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set(fields.get("flags", "").split())


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"no {library}"


if __name__ == "__main__":
    print(describe())
