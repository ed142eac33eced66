"""Imports flow one way, and light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vqcodec"

# Module -> what it may import of vqcodec. `config` and `errors` are open to all.
STAGES = {
    "fields": set(),
    "drawings": {"fields"},
    "samples": set(),
    "image": {"samples"},
    "autoencoder": set(),
    "beam": set(),
    "quantizer": {"beam"},
    "prior": set(),
    "freezing": {"prior"},
    "products": {"resources"},
    "exact_prior": {"products"},
    "tally": set(),
    "walk": {"exact_prior", "products", "resources", "tally"},
    "probe": {"exact_prior", "walk"},
    "coder": {"exact_prior", "walk"},
    "container": set(),
    "registry": {"autoencoder", "container", "quantizer", "exact_prior", "products"},
    "allocation": set(),
    "target": set(),
    "refine": {"perception", "quantizer"},
    "lengths": {"quantizer", "refine", "registry", "walk"},
    "tiles": {"container"},
    "readers": {"coder", "container", "products", "registry", "tiles"},
    "windows": {"image", "registry", "resources", "tiles"},
    "grids": {
        *("coder", "container", "lengths", "perception", "products", "readers", "refine"),
        *("registry", "resources", "tiles", "windows"),
    },
    "codec": {
        *("image", "registry", "container", "grids", "tiles", "windows"),
        *("allocation", "metrics", "products", "resources", "target", "walk"),
    },
    "data": {"drawings", "image"},
    "perception": set(),
    "codebooks": {"quantizer"},
    "objective": {"autoencoder", "perception", "prior", "quantizer", "refine"},
    "checkpoint": set(),
    "loop": set(),
    "run": {"autoencoder", "checkpoint", "data", "loop", "prior", "quantizer"},
    "train": {
        *("registry", "quantizer", "freezing", "data", "run", "lengths"),
        *("codebooks", "objective", "perception", "loop", "checkpoint"),
        *("exact_prior", "probe"),
    },
    "doctor": {"registry", "exact_prior", "probe", "products"},
    "demo": {"codec", "drawings", "files", "image", "metrics"},
    "bdrate": set(),
    "metrics": set(),
    "peers": set(),
    "plots": set(),
    "evaluate": {"bdrate", "codec", "files", "image", "metrics", "peers", "registry"},
    "report": {"evaluate", "files", "metrics", "peers", "plots", "registry"},
    "files": {"container"},
    "console": {"files", "container", "registry"},
    "options": {"files", "console", "container", "image", "target", "__init__"},
    "sheet": set(),
    "cli": {
        *("files", "console", "options", "codec", "container", "demo", "evaluate", "image"),
        *("peers", "registry", "report", "sheet", "train", "doctor"),
    },
    "__main__": {"cli"},
    "__init__": {"codec", "errors"},
    "config": set(),
    "errors": set(),
    "resources": set(),
}
NO_TORCH = {
    *("errors", "config", "image", "exact_prior", "coder", "container", "registry", "codec"),
    *("allocation", "target", "tiles", "readers", "windows", "grids", "probe", "doctor"),
    *("resources", "products"),
}


def imports(path: Path) -> set[str]:
    """Every module named in an import statement of a file, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "vqcodec":
                names |= {f"vqcodec.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_place() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(STAGES)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_imports_only_what_its_place_allows(name: str) -> None:
    found = imports(PACKAGE / f"{name}.py")
    own = {n.split(".")[1] for n in found if n.startswith("vqcodec.")} & set(STAGES)
    assert own <= STAGES[name] | {"config", "errors"}


def test_constriction_has_one_importer() -> None:
    users = [p.stem for p in PACKAGE.glob("*.py") if any("constriction" in n for n in imports(p))]
    assert users == ["coder"]


@pytest.mark.parametrize("name", sorted(NO_TORCH))
def test_imports_no_torch(name: str) -> None:
    code = f"import sys, vqcodec.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_files_stay_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 620  # aim under 300; the exact prior and its formula stay together
    assert max(map(len, lines)) <= 100
