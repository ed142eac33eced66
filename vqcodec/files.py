"""Which files to read, where their results go, and writing these whole or not at all."""

import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqcodec.bitstream.container import MAGIC
from vqcodec.errors import NotVqcodecFile
from vqcodec.picture.formats import SUFFIXES

__all__ = [
    "PICTURES",
    "STREAM",
    "Job",
    "check_target",
    "plan",
    "read_vqc",
    "write",
]

STREAM = "-"  # standard input as a source, standard output as a target
PICTURES = SUFFIXES  # what -r takes from a folder to compress

Complain = Callable[[str, Exception], None]  # (source, why it cannot be done)


@dataclass(frozen=True)
class Job:
    """One input and the place of its result.

    Attributes:
        source, target: paths, or `STREAM`. Text, since `Path("./-")` would become `-`.
        new_folders: whether the folders above the target are made.
    """

    source: str
    target: str
    new_folders: bool = False


def plan(
    inputs: Sequence[str],
    output: str | None,
    suffix: str,
    *,
    collected: frozenset[str],
    recursive: bool,
    force: bool,
    complain: Complain,
) -> list[Job]:
    """Choose the target of every input, and check all that can be checked before the work.

    Without `output` a result lies beside its source. With one input and no `recursive`, `output`
    is a file, or a folder that exists. Else it is a folder, made when missing: what lies in a
    folder of `inputs` keeps its place below that folder, other inputs lie at the top.

    Args:
        inputs: paths, folders among them only if `recursive`; or just `STREAM`.
        output: path, or `STREAM`, or None.
        suffix: of the results, with its dot.
        collected: suffixes of the files that are taken from folders, in small letters.
        force: results may replace files, and binary data may go to a terminal.
        complain: told of every input that has no place in the list returned.
    """
    found = list(_collect(inputs, collected, recursive, complain))
    several = recursive or len(inputs) > 1
    new_folders = several and output is not None
    sources = {identity(source) for source, _ in found} - {None}
    taken: dict[str, str] = {}
    jobs = []
    for source, below in found:
        target = _target(source, below, output, suffix, several)
        try:
            if (there := identity(target)) in sources:
                text = "is an input as well, which would be lost"
                if there == identity(source):
                    text = "is the input itself, which would be lost; -o can name another"
                raise _error(errno.EEXIST, text, target)
            if (place := os.path.realpath(target)) in taken:
                text = f"is the place for the result of {taken[place]} already"
                raise _error(errno.EEXIST, text, target)
            check_target(target, force, new_folders)
        except OSError as error:
            complain(source, error)
        else:
            taken[place] = source
            jobs.append(Job(source, target, new_folders))
    return jobs


def _collect(
    inputs: Sequence[str], collected: frozenset[str], recursive: bool, complain: Complain
) -> Iterator[tuple[str, str]]:
    """(source, place below the output folder) of every file to read."""
    for given in inputs:
        if given == STREAM or not os.path.isdir(given):
            if given == STREAM or os.path.lexists(given):
                yield given, os.path.basename(given)
            else:
                complain(given, _error(errno.ENOENT, os.strerror(errno.ENOENT), given))
        elif not recursive:
            complain(given, _error(errno.EISDIR, "is a directory; -r takes what is in it", given))
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
                if _is_device(path):  # a pipe without a writer would be read for ever
                    complain(path, _error(errno.EINVAL, "is not a regular file", path))
                else:
                    yield path, os.path.relpath(path, folder)
    if idle:
        kinds = " ".join(sorted(collected))
        complain(folder, _error(errno.ENOENT, f"nothing to do there: no {kinds}", folder))


def _target(source: str, place: str, output: str | None, suffix: str, several: bool) -> str:
    if output == STREAM or (output is None and source == STREAM):
        return STREAM
    if output is None:
        return str(Path(source).with_suffix(suffix))
    if not several and not is_folder(output):
        return output
    name = "stdin" if source == STREAM else place
    return os.path.join(output, str(Path(name).with_suffix(suffix)))


def is_folder(output: str) -> bool:
    """Whether OUTPUT of a single input means a folder: it is one, or ends like one."""
    return os.path.isdir(output) or output.endswith(("/", os.sep))


def check_target(target: str, force: bool, new_folders: bool = False) -> None:
    """Refuse a target that could not, or must not, be written.

    Raises:
        OSError: it exists and not `force`; it is a folder; its folder is missing or read-only;
            standard output is a terminal and not `force`.
    """
    if target == STREAM:
        if not sys.stdout.writable():
            raise _error(errno.EBADF, "standard output is closed", STREAM)
        if sys.stdout.isatty() and not force:
            raise _error(errno.EINVAL, "standard output is a terminal; -f writes there", STREAM)
        return
    if os.path.isdir(target):
        raise _error(errno.EISDIR, "is a directory", target)
    if os.path.lexists(target):
        if not force and not _is_device(target):
            raise _error(errno.EEXIST, "exists already; -f replaces it", target)
        return
    folder = os.path.dirname(target) or os.curdir
    while new_folders and not os.path.lexists(folder):
        folder = os.path.dirname(folder) or os.curdir
    if not os.path.exists(folder):
        raise _error(errno.ENOENT, "this directory does not exist", folder)
    if not os.path.isdir(folder):
        raise _error(errno.ENOTDIR, "is not a directory", folder)
    if not os.access(folder, os.W_OK):
        raise _error(errno.EACCES, "this directory is read-only", folder)


def read_vqc(source: str) -> bytes:
    """The bytes of a `.vqc` file, or of standard input.

    Raises:
        NotVqcodecFile: it starts with other bytes; only these are read, as it may be huge.
        OSError: it cannot be read.
    """
    if source == STREAM:
        return read_stdin()
    with open(source, "rb") as file:
        start = file.read(len(MAGIC))
        if start != MAGIC:
            raise NotVqcodecFile("not a .vqc file: the first bytes are others")
        return start + file.read()


def read_stdin() -> bytes:
    """All of standard input.

    Raises:
        OSError: it is a terminal.
    """
    if sys.stdin.isatty():
        raise _error(errno.EINVAL, "standard input is a terminal", STREAM)
    return sys.stdin.buffer.read()


def write(target: str, data: bytes, force: bool, new_folders: bool = False) -> None:
    """Write a file so that it appears whole or not at all, or write to standard output.

    Raises:
        OSError: as from `check_target`, or on writing. Nothing is left behind.
    """
    check_target(target, force, new_folders)  # again: the work took a while
    if target == STREAM:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    elif _is_device(target):  # /dev/null or a pipe, which renaming would replace by a file
        with open(target, "wb") as file:
            file.write(data)
    else:
        if new_folders:
            os.makedirs(os.path.dirname(target) or os.curdir, exist_ok=True)
        target = os.path.realpath(target)  # a link stays, what it names is replaced
        _write_atomically(target, data, force)


def _write_atomically(target: str, data: bytes, force: bool) -> None:
    # In the same folder, since renaming is atomic only within a file system. A short name of its
    # own, since a long one may not take more letters. O_EXCL with 0o666 heeds the umask.
    temporary = os.path.join(os.path.dirname(target), f".vqcodec-{secrets.token_hex(6)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no contents
        if os.path.exists(target):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        if force or not _give_name(temporary, target):
            os.replace(temporary, target)
    except BaseException as error:  # Ctrl-C too must leave nothing
        if os.path.lexists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _error(error.errno or 0, error.strerror or str(error), target) from error
        raise


def _give_name(temporary: str, target: str) -> bool:
    """Rename a file unless the name was taken meanwhile; False: this file system has no links.

    Raises:
        FileExistsError: it was.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        text = "was made by another program meanwhile; -f replaces it"
        raise _error(errno.EEXIST, text, target) from None
    except OSError:
        return False
    os.unlink(temporary)
    return True


def identity(path: str) -> tuple[int, int] | None:
    """What two paths of the same file, linked or not, have in common; None for other things."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    regular = stat.S_ISREG(status.st_mode) and path != STREAM
    return (status.st_dev, status.st_ino) if regular else None


def _is_device(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)


def _error(number: int, text: str, path: str) -> OSError:
    return OSError(number, text, path)
