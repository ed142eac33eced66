"""What loads what: light commands stay light. The layers themselves are import-linter's."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vqcodec"
TORCH_FREE = ("bitstream", "picture", "decoder", "cli")
OF_TORCH = {  # what training alone needs, and the networks
    *("prior.network", "prior.freeze"),
    *("networks.autoencoder", "networks.beam_search", "networks.quantizer"),
    *("encoder.refine", "encoder.code_lengths", "encoder.perception"),
}


def modules() -> list[str]:
    """Dotted names of all modules, without `vqcodec.`."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts) for path in paths if path.name != "__main__")


def is_torch_free(name: str) -> bool:
    return not name.startswith("training.") and name not in OF_TORCH


def imports(path: Path) -> set[str]:
    """Every module named in an import statement of a file, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_few_modules_stand_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 14


def test_constriction_has_one_importer() -> None:
    users = [p.stem for p in PACKAGE.rglob("*.py") if any("constriction" in n for n in imports(p))]
    assert users == ["range_coder"]


def test_modules_that_should_load_no_torch_load_none() -> None:
    # In one process: once torch is there, all after it would be to blame, so the first is named.
    names = [f"vqcodec.{name}" for name in modules() if is_torch_free(name)]
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500  # aim under 300
