"""Which files a command reads, and where their results go."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqcodec.errors import VqcodecError
from vqcodec.files import STREAM, check_target, identity, is_device, os_error

__all__ = ["Job", "is_folder", "plan"]

Complain = Callable[[str, Exception], None]  # (source, why it cannot be done)


@dataclass(frozen=True)
class Job:
    """One input and the place of its result.

    Attributes:
        source, target: paths, or `STREAM`. Text, since `Path("./-")` would become `-`.
        new_folders: whether the folders above the target are made.
        spare: the place to use if the result of an earlier job went to `target`.
    """

    source: str
    target: str
    new_folders: bool = False
    spare: str | None = None


def plan(
    inputs: Sequence[str],
    output: str | None,
    suffix: str,
    *,
    collected: frozenset[str],
    recursive: bool,
    force: bool,
    complain: Complain,
    check_source: Callable[[str], None] | None = None,
) -> list[Job]:
    """Choose the target of every input, and check all that can be checked before the work.

    Without `output` a result lies beside its source. With one input and no `recursive`, `output`
    is a file, or a folder if it exists as one or ends with a slash. Else it is a folder. Folders
    named by `output` are made when missing. What lies in a folder of `inputs` keeps its place
    below `output`, other inputs lie at the top.

    Args:
        inputs: paths, folders among them only if `recursive`; or just `STREAM`.
        output: path, or `STREAM`, or None.
        suffix: of the results, with its dot.
        collected: suffixes of the files that are taken from folders, in small letters.
        force: results may replace files, and binary data may go to a terminal.
        complain: called with every input that has no place in the list returned.
        check_source: raises a VqcodecError or an OSError for a file that is of no use.
    """
    found = list(_collect(inputs, collected, recursive, complain))
    several = recursive or len(inputs) > 1
    new_folders = output is not None and (several or _ends_like_folder(output))
    sources = {identity(source) for source, _ in found} - {None}
    taken: dict[str, str] = {}
    jobs = []
    for source, below in found:
        target = _target(source, below, output, suffix, several)
        try:
            if check_source:
                check_source(source)
            spare = None
            if (rival := taken.get(os.path.realpath(target))) is not None:
                spare = _spare(target, source, suffix)
                if spare == target or os.path.realpath(spare) in taken:
                    text = f"is the place for the result of {rival} already"
                    raise os_error(errno.EEXIST, text, target)
            _check_no_input(place := spare or target, source, sources)
            check_target(place, force, new_folders)
        except (OSError, VqcodecError) as error:
            complain(source, error)
        else:
            taken[os.path.realpath(place)] = source
            jobs.append(Job(source, target, new_folders, spare))
    return jobs


def _check_no_input(target: str, source: str, sources: set[tuple[int, int] | None]) -> None:
    """Refuse a target that is one of the inputs.

    Raises:
        FileExistsError: it is.
    """
    if (there := identity(target)) in sources:
        text = "is an input as well, which would be lost"
        if there == identity(source):
            text = "is the input itself, which would be lost; -o can name another"
        raise os_error(errno.EEXIST, text, target)


def _collect(
    inputs: Sequence[str], collected: frozenset[str], recursive: bool, complain: Complain
) -> Iterator[tuple[str, str]]:
    """(source, place below the output folder) of every file to read."""
    for given in inputs:
        if given == STREAM or not os.path.isdir(given):
            if given == STREAM or os.path.lexists(given):
                yield given, os.path.basename(given)
            else:
                complain(given, os_error(errno.ENOENT, os.strerror(errno.ENOENT), given))
        elif not recursive:
            complain(given, os_error(errno.EISDIR, "is a directory; -r takes what is in it", given))
        else:
            yield from _walk(given, collected, complain)


def _walk(folder: str, collected: frozenset[str], complain: Complain) -> Iterator[tuple[str, str]]:
    idle = True

    def unreadable(error: OSError) -> None:
        nonlocal idle
        idle = False
        complain(str(error.filename), error)

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in collected:
                idle, path = False, os.path.join(parent, name)
                if is_device(path):  # a pipe without a writer would be read for ever
                    complain(path, os_error(errno.EINVAL, "is not a regular file", path))
                else:
                    yield path, os.path.relpath(path, folder)
    if idle:
        kinds = " ".join(sorted(collected))
        complain(folder, os_error(errno.ENOENT, f"nothing to do there: no {kinds}", folder))


def _target(source: str, place: str, output: str | None, suffix: str, several: bool) -> str:
    if output == STREAM or (output is None and source == STREAM):
        return STREAM
    if output is None:
        return str(Path(source).with_suffix(suffix))
    if not several and not is_folder(output):
        return output
    name = "stdin" if source == STREAM else place
    return os.path.join(output, str(Path(name).with_suffix(suffix)))


def _spare(target: str, source: str, suffix: str) -> str:
    """Where the result of `a.png` goes if `a.jpg` was there before: to `a.png.vqc`."""
    if target == STREAM:
        return target
    return os.path.join(os.path.dirname(target), os.path.basename(source) + suffix)


def is_folder(output: str) -> bool:
    """Whether OUTPUT of a single input means a folder: it is one, or ends like one."""
    return os.path.isdir(output) or _ends_like_folder(output)


def _ends_like_folder(output: str) -> bool:
    return output.endswith(("/", os.sep))
