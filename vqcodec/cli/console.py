"""What the command line says: results, notes, errors, progress; and its exit status."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from vqcodec import limits
from vqcodec.bitstream import container
from vqcodec.cli.jobs import Job
from vqcodec.errors import VqcodecError

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = [
    "Advance",
    "Report",
    "Ticker",
    "TrainingDisplay",
    "describe_file",
    "info_text",
    "one_line",
    "one_line_errors",
]

PATIENCE = 0.7  # seconds of one job before it gets a progress bar
INTERVAL = 30.0  # seconds between lines of long work, where there is no terminal
EXPECTED = (VqcodecError, OSError, MemoryError)

Advance = Callable[[float], None]  # called with the share of a job that is done, 0..1


class Report:
    """Everything that one command says, job by job.

    Args:
        as_json: results go to standard output, one JSON object a line.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json, self.failures = as_json, 0
        self.bar = Bar()

    def each(self, jobs: Sequence[Job], work: Callable[[Job, Advance], None]) -> None:
        """Do all jobs, the others also when one fails.

        Raises:
            typer.Exit: status 1, if a job failed or was refused before.
        """
        with self.bar:
            written: set[str] = set()
            for number, job in enumerate(jobs):
                if job.spare and job.target in written:
                    self.note(job.source, f"{job.target} is of another input, so: {job.spare}")
                    job = replace(job, target=job.spare)
                try:
                    work(job, self.bar.part(number, len(jobs), job.source))
                    written.add(job.target)
                except BrokenPipeError:
                    raise  # nobody reads on: no fault of this file
                except EXPECTED as error:
                    self.error(job.source, error)
        if self.failures:
            raise typer.Exit(1)

    def error(self, name: str, error: Exception) -> None:
        self.failures += 1
        text = describe(error, name)
        self.bar.say(f"vqcodec: error: {one_line(name)}: {text}")
        if self.as_json:
            self._print_json({"input": name, "error": text})

    def note(self, name: str, text: str) -> None:
        self.bar.say(f"vqcodec: note: {one_line(name)}: {one_line(text)}")

    def done(self, job: Job, text: str, **fields: Any) -> None:
        """Tell of a file that was written: `text` to people, `fields` as JSON."""
        if self.as_json:
            self._print_json({"input": job.source, "output": job.target, **fields})
        elif sys.stderr.isatty():
            self.bar.say(f"{one_line(job.source)} -> {one_line(job.target)}: {text}")

    def show(self, text: str, **fields: Any) -> None:
        """Put to standard output what the command was asked for."""
        if self.as_json:
            self._print_json(fields)
        else:
            print(text)

    def _print_json(self, fields: dict[str, Any]) -> None:
        print(json.dumps(fields), flush=True)


class Bar:
    """A progress bar on standard error; only on a terminal, and only if there is time to see it."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.progress: Progress | None = None

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None

    def part(self, number: int, count: int, name: str) -> Advance:
        """Begin a job; the function returned moves the bar on."""

        def advance(share: float) -> None:
            self.show((number + share) / count, one_line(os.path.basename(name)))

        if count > 1:
            advance(0)
        return advance

    def show(self, share: float, text: str, patience: float = PATIENCE) -> None:
        if not self.progress:
            if not sys.stderr.isatty() or time.monotonic() - self.start < patience:
                return
            self.progress = _new_progress()
            self.progress.start()
            self.progress.add_task("", total=1.0)
        task = self.progress.task_ids[0]
        self.progress.update(task, completed=share, description=text)

    def say(self, line: str) -> None:
        """Print a line to standard error, above the bar if there is one."""
        if self.progress:
            self.progress.console.print(
                line, markup=False, emoji=False, highlight=False, soft_wrap=True
            )
        else:
            print(line, file=sys.stderr, flush=True)


def _new_progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),  # a file may be called [red].png
        console=Console(stderr=True),
        transient=True,
    )


class Ticker:
    """Shows how far long work is: the bar on a terminal, else a line now and then."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.next_line = bar, time.monotonic() + INTERVAL

    def __call__(self, share: float, text: str) -> None:
        """Show the share of the work done, 0..1, and what is being done."""
        self.bar.show(share, one_line(text))
        now = time.monotonic()
        if not self.bar.progress and now >= self.next_line:
            self.bar.say(f"{100 * share:5.1f} %  {one_line(text)}")
            self.next_line = now + INTERVAL


class TrainingDisplay:
    """Shows the log records of training: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.bar = Bar()
        self.phase: object = None
        self.next_line = 0.0

    def __call__(self, record: dict[str, Any]) -> None:
        """Show one record: phase, step, minutes, progress (0..1), psnr, bpp, or just a note.

        `stopped`, in place of these, is the last step of a run that was interrupted.
        """
        note = record.get("note")
        if "stopped" in record:
            note = f"stopped after step {record['stopped']}; --resume continues from there"
        if note is not None:
            self.bar.say(f"vqcodec: note: {one_line(str(note))}")
            return
        text = summary(record)
        self.bar.show(float(record.get("progress", 0)), text, patience=0)
        now = time.monotonic()
        if record.get("phase") == self.phase and now < self.next_line:
            return
        if not self.bar.progress:
            self.bar.say(f"{100 * float(record.get('progress', 0)):5.1f} %  {text}")
        self.phase, self.next_line = record.get("phase"), now + INTERVAL


def summary(record: dict[str, Any]) -> str:
    """A log record of training in a few words."""
    parts = [str(record["phase"])] if "phase" in record else []
    forms = {"minutes": "{} min", "pictures": "{} pictures", "step": "step {}", "psnr": "{} dB"}
    for key, form in forms.items():
        if key in record:
            parts.append(form.format(_number(record[key])))
    if "bpp" in record:
        parts.append(f"{_number(record['bpp'], 3)} bpp")
    return "  ".join(parts)


def _number(value: Any, digits: int = 1) -> str:
    """A number, or the numbers of a list, such as one for each range of quality."""
    if isinstance(value, list | tuple):
        return " ".join(_number(v, digits) for v in value)
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what may go wrong into one line on standard error and the exit status.

    Raises:
        SystemExit: 1 after an expected error or a broken pipe, 130 after Ctrl-C.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may not fit the terminal's letters
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a full disk or a closed pipe shows here, not after our last word
    except KeyboardInterrupt:
        print("vqcodec: interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        _drop_stdout()
        raise SystemExit(1) from None
    except EXPECTED as error:
        print(f"vqcodec: error: {describe(error)}", file=sys.stderr, flush=True)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_stdout()
        raise SystemExit(1) from None


def _open_closed_streams() -> None:
    """Give a process that was started without standard streams, as by cron, some to fail on."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:  # to write there is an error: nothing would come of it
        sys.stdout = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def describe_file(data: bytes, max_pixels: int = limits.MAX_PIXELS) -> dict[str, Any]:
    """What is said of a `.vqc` file as JSON; bytes are those of the whole file."""
    parsed = container.parse(data, partial=True, max_pixels=max_pixels)
    sizes = [part.size for part in parsed.parts]
    tiles = container.tile_count(parsed.width, parsed.height)
    return {
        "num_bytes": len(data),
        "bpp": round(8 * len(data) / (parsed.width * parsed.height), 4),
        "width": parsed.width,
        "height": parsed.height,
        "coded_quality": parsed.quality,
        "grey": parsed.grey,
        "model_id": parsed.model_id.hex(),
        "complete": parsed.complete,
        "surplus_bytes": parsed.surplus,
        "levels": parsed.level_count,
        "levels_present": parsed.levels_present,
        "levels_per_part": container.LEVELS_PER_PART,
        "part_bytes": [sum(sizes[k : k + tiles]) for k in range(0, len(sizes), tiles)],
        "chunks": {kind.decode(): len(body) for kind, body in parsed.chunks},
        "chunks_lost": [kind.decode() for kind in parsed.lost],
    }


def info_text(fields: dict[str, Any]) -> str:
    """`describe_file` and `input`, `model` for people."""
    state = "complete"
    if fields["levels_present"] < fields["levels"]:
        state = f"cut: {fields['levels_present']} of {fields['levels']} levels are there"
    elif fields["surplus_bytes"]:
        state = f"{fields['surplus_bytes']} bytes behind its end"
    elif not fields["complete"]:
        state = "damaged"
    chunks = [f"{kind} {size} bytes" for kind, size in fields["chunks"].items()]
    chunks += [f"{kind} lost" for kind in fields["chunks_lost"]]
    rows = {
        "picture": f"{fields['width']} x {fields['height']}, {'grey' * fields['grey'] or 'colour'}",
        "quality": f"coded at {fields['coded_quality']}",
        "model": f"{fields['model_id']} ({fields['model'] or 'not among those shipped'})",
        "file": f"{fields['num_bytes']} bytes, {fields['bpp']} bpp, {state}",
        "levels": f"{fields['levels']}, {fields['levels_per_part']} a part; bytes of the parts: "
        + " ".join(map(str, fields["part_bytes"])),
        "chunks": ", ".join(chunks) or "none",
    }
    return "\n".join([one_line(fields["input"]), *(f"  {k:8} {v}" for k, v in rows.items())])


def describe(error: Exception, name: str = "") -> str:
    """One line about an error, without `name`, which the caller puts before it."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        text = f"{path}: {error.strerror}" if path else error.strerror
    else:
        text = str(error) or type(error).__name__
    if name:  # of bytes, such as standard input, `reading.read_picture` knows none
        text = text.removeprefix(f"{name}: ").removeprefix("picture: ")
    return one_line(text)


def one_line(text: str) -> str:
    """Text whose control characters and broken letters are written as escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _drop_stdout() -> None:
    """Keep the interpreter from complaining, at its end, about what it cannot flush."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
