"""The documentation is true where a test can tell: examples run, links lead somewhere, lines fit.

Every `bash` and `python` block of a page runs, those of one page one after the other in one folder
that has `photo.png`, `my_photos/` and `kodak/`. A block that cannot run has a comment above it,
`<!-- not run: REASON -->`. Training takes a few steps in place of the minutes of an example, and
`doctor` tries fewer kernels.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from PIL import Image

import vqcodec
from vqcodec.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
HISTORY = {"experiments.md", "changelog.md"}  # may name options that are gone
LONGEST = 120

FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

# The command `vqcodec`, as an installed one would be, but that `train` takes a few steps on a few
# crops, and `doctor` tries one set of kernels of each library.
COMMAND = """
import sys
from vqcodec.__main__ import main

if sys.argv[1:2] == ["train"]:
    from vqcodec.training import train

    class Short(train.TrainOptions):
        def __new__(cls, output, **given):
            return train_options(output, **given, steps=4, crop=96, batch=2, samples=16)

    train_options, train.TrainOptions = train.TrainOptions, Short
if sys.argv[1:2] == ["doctor"]:
    from vqcodec.evaluation import exactness

    exactness.CORE_TYPES = exactness.CORE_TYPES[-1:]
    exactness.INT8_KERNELS = exactness.INT8_KERNELS[-1:]
main()
"""


class Block(NamedTuple):
    page: Path
    language: str
    text: str
    reason: str | None  # why it does not run


def blocks(page: Path) -> list[Block]:
    matches = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(page, m["language"], m["text"], m["reason"]) for m in matches]


def examples(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("bash", "python")]


def runnable(page: Path) -> list[Block]:
    return [block for block in examples(page) if block.reason is None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where examples run: pictures, and a folder `bin` with the commands `vqcodec` and `python`."""
    photo = Image.open(ROOT / "docs" / "coffee.webp").convert("RGB")
    for name, box in {
        "photo.png": (200, 20, 296, 84),
        "my_photos/a.png": (0, 0, 128, 128),
        "my_photos/b.jpg": (180, 20, 308, 148),
        "kodak/kodim01.png": (320, 60, 384, 108),
        "kodak/kodim02.png": (60, 200, 124, 248),
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        photo.crop(box).save(path)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "command.py").write_text(COMMAND, encoding="utf-8")
    command = f'exec "{sys.executable}" "{programs / "command.py"}" "$@"'
    (programs / "vqcodec").write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    (programs / "vqcodec").chmod(0o755)
    return tmp_path


def run(folder: Path, block: Block) -> None:
    """Run an example; a command that fails ends it with an error."""
    argv = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    environment = dict(
        os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(vqcodec.__file__).parents[1])
    )
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*argv[block.language], block.text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block.page.name}:\n{block.text}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem
)
def test_examples_run(page: Path, folder: Path) -> None:
    for block in runnable(page):
        run(folder, block)


@pytest.mark.slow
def test_set_up_command_ends_with_the_demo(folder: Path) -> None:
    """The rest of it, a virtual environment and its packages, is there when tests run."""
    [set_up] = [b.text for b in blocks(ROOT / "README.md") if "demo" in b.text]
    venv, install, demo = set_up.strip().split(" && ")
    assert venv == "python3 -m venv .venv"
    constraints = re.fullmatch(r"\.venv/bin/pip install -c (\S+) -e '\.\[dev\]'", install)
    assert constraints and (ROOT / constraints[1]).is_file()
    assert demo == ".venv/bin/vqcodec demo"
    run(folder, Block(ROOT / "README.md", "bash", "vqcodec demo photo.png", None))
    assert (folder / "demo" / "q50.vqc").is_file()


def commands(text: str) -> list[list[str]]:
    """The arguments of every call of `vqcodec` in a shell example."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [words[1:] for words in lines if words and words[0] == "vqcodec"]


def options() -> dict[str, set[str]]:
    """Every command with its options, as `--help` has them."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        context = command.make_context(name, [], resilient_parsing=True)
        params = command.get_params(context)
        found[name] = {o for p in params for o in (*p.opts, *p.secondary_opts) if o[:1] == "-"}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_name_commands_and_options_that_exist(page: Path) -> None:
    known = options()
    for block in examples(page):
        for name, *arguments in commands(block.text):
            assert name in known
            given = {word for word in arguments if re.match(r"--?[a-z]", word)}
            assert given <= known[name], (name, given - known[name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_in_the_text_exist(page: Path) -> None:
    if page.name in HISTORY:
        return
    known = {option for found in options().values() for option in found} | {"--version"}
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    calls = [code for code in re.findall(r"`([^`]+)`", prose) if code.startswith(("vqcodec", "--"))]
    named = {option for code in calls for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)}
    assert named <= known, named - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_example_hides(page: Path) -> None:
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page))
    for block in blocks(page):
        assert block.language in ("bash", "python", "hex", "")
        if not block.language:
            assert not re.search(
                r"^\s*(\$ )?(vqcodec|pip|python3?|import)\s", block.text, re.MULTILINE
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_are_short(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [n for n, line in enumerate(lines, 1) if len(line) > LONGEST] == []


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_experiments_are_all_in_the_index() -> None:
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    sections = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    rows = [
        int(number) for number in re.findall(r"^\| (\d+) \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)
    ]
    assert sections == list(range(1, len(sections) + 1))
    assert rows == sections
