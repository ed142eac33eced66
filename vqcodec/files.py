"""Reading input files, and writing outputs whole or not at all."""

import contextlib
import errno
import os
import secrets
import stat
import sys
from pathlib import Path

from vqcodec.bitstream.container import MAGIC
from vqcodec.errors import NotVqcodecFile
from vqcodec.picture.formats import SUFFIXES

__all__ = [
    "PICTURES",
    "STREAM",
    "check_target",
    "check_vqc",
    "identity",
    "is_device",
    "os_error",
    "read_stdin",
    "read_vqc",
    "write",
    "write_atomically",
]

STREAM = "-"  # standard input as a source, standard output as a target
PICTURES = SUFFIXES  # what -r takes from a folder to compress


def check_target(target: str, force: bool, new_folders: bool = False) -> None:
    """Refuse a target that cannot, or must not, be written.

    Raises:
        OSError: it is a folder, or its folder is missing or read-only; without `force` also: it
            exists, or it is standard output and that is a terminal.
    """
    if target == STREAM:
        if not sys.stdout.writable():
            raise os_error(errno.EBADF, "standard output is closed", STREAM)
        if sys.stdout.isatty() and not force:
            raise os_error(errno.EINVAL, "standard output is a terminal; -f writes there", STREAM)
        return
    if os.path.isdir(target):
        raise os_error(errno.EISDIR, "is a directory", target)
    if os.path.lexists(target):
        if not force and not is_device(target):
            raise os_error(errno.EEXIST, "exists already; -f replaces it", target)
        return
    folder = os.path.dirname(target) or os.curdir
    while new_folders and not os.path.lexists(folder):
        folder = os.path.dirname(folder) or os.curdir
    if not os.path.exists(folder):
        raise os_error(errno.ENOENT, "this directory does not exist", folder)
    if not os.path.isdir(folder):
        raise os_error(errno.ENOTDIR, "is not a directory", folder)
    if not os.access(folder, os.W_OK):
        raise os_error(errno.EACCES, "this directory is read-only", folder)


def check_vqc(source: str) -> None:
    """Check the first bytes of a regular file; anything else passes unread.

    Raises:
        NotVqcodecFile: they are not those of a `.vqc` file.
        OSError: it cannot be read.
    """
    if os.path.isfile(source):  # bytes of a pipe can be read only once
        with open(source, "rb") as file:
            _check_magic(file.read(len(MAGIC)))


def read_vqc(source: str) -> bytes:
    """The bytes of a `.vqc` file, or of standard input.

    Raises:
        NotVqcodecFile: it starts with other bytes. No more is read of it, as it may be huge.
        OSError: it cannot be read.
    """
    if source == STREAM:
        return read_stdin()
    with open(source, "rb") as file:
        _check_magic(start := file.read(len(MAGIC)))
        return start + file.read()


def _check_magic(start: bytes) -> None:
    if start != MAGIC:
        raise NotVqcodecFile("not a .vqc file: it starts with other bytes")


def read_stdin() -> bytes:
    """All of standard input.

    Raises:
        OSError: it is a terminal.
    """
    if sys.stdin.isatty():
        raise os_error(errno.EINVAL, "standard input is a terminal", STREAM)
    return sys.stdin.buffer.read()


def write(target: str, data: bytes, force: bool, new_folders: bool = False) -> None:
    """Write a file so that it appears whole or not at all, or write to standard output.

    Raises:
        OSError: as from `check_target`, or on writing. Nothing is left behind.
    """
    check_target(target, force, new_folders)  # again: things may have changed since
    if target == STREAM:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    elif is_device(target):  # /dev/null or a pipe, which renaming would replace by a file
        with open(target, "wb") as file:
            file.write(data)
    else:
        if new_folders:
            os.makedirs(os.path.dirname(target) or os.curdir, exist_ok=True)
        write_atomically(target, data, replace=force)


def write_atomically(path: str | Path, data: bytes, *, replace: bool = True) -> None:
    """Write a regular file so that it appears whole or not at all, even if the power fails.

    The permissions of a file that is replaced are kept. Of a symbolic link, the target is written.

    Args:
        replace: whether to replace a file of that name; if not, it is an error.
    Raises:
        FileExistsError: there is a file of that name, and not `replace`.
        OSError: the file cannot be written. No partial file is left.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    # In the same folder, since renaming is atomic only within a file system. A short name of its
    # own, since a long one may not take more letters. O_EXCL with 0o666 heeds the umask.
    temporary = os.path.join(folder, f".vqcodec-{secrets.token_hex(6)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no contents
        if os.path.exists(target):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        if replace or not _give_name(temporary, target):
            os.replace(temporary, target)
    except BaseException as error:  # Ctrl-C too must leave nothing
        if os.path.lexists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise os_error(error.errno or 0, error.strerror or str(error), str(path)) from error
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Put a folder's new names on disk, where the system can (Windows cannot open folders)."""
    with contextlib.suppress(OSError):  # the file is whole, under its old name or its new one
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _give_name(temporary: str, target: str) -> bool:
    """Rename a file unless its new name is taken; False if this file system has no hard links.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        text = "was made by another program meanwhile; -f replaces it"
        raise os_error(errno.EEXIST, text, target) from None
    except OSError:
        return False
    os.unlink(temporary)
    return True


def identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a regular file, the same for all paths to it; None for anything else."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    regular = stat.S_ISREG(status.st_mode) and path != STREAM
    return (status.st_dev, status.st_ino) if regular else None


def is_device(path: str) -> bool:
    """Whether a path leads to something else than a regular file: a device, a pipe, a folder."""
    return os.path.exists(path) and not os.path.isfile(path)


def os_error(number: int, text: str, path: str) -> OSError:
    return OSError(number, text, path)
