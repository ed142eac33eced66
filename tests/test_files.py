"""Files appear whole or not at all: outputs, weights and checkpoints alike."""

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vqcodec import files, models
from vqcodec.training.checkpoint import Checkpoint

Write = Callable[[Path], None]


def write_weights(path: Path) -> None:
    source = models.load("photo")
    models.save(path, source.config, {"x": np.zeros(1000, np.float32)}, {"note": "for a test"})


def write_checkpoint(path: Path) -> None:
    Checkpoint(path).save({}, {"m": torch.nn.Linear(2, 3)}, np.random.default_rng(0))


WRITERS: dict[str, Write] = {
    "bytes": lambda path: files.write_atomically(path, b"new"),
    "weights": write_weights,
    "checkpoint": write_checkpoint,
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Write:
    return WRITERS[request.param]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, fault: BaseException
) -> None:
    def fail(descriptor: int) -> None:
        raise fault

    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(fault)) as caught:
        write(path)
    error = caught.value
    assert not isinstance(error, OSError) or error.filename == str(path)
    assert os.listdir(tmp_path) == ["old.bin"] and path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be opened")
def test_contents_are_on_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def spy_sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("sync folder" if is_folder else "sync file")
        sync(descriptor)

    def spy_replace(*names: str) -> None:
        events.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write(tmp_path / "new.bin")
    assert events == ["sync file", "rename", "sync folder"]
    assert os.listdir(tmp_path) == ["new.bin"]


def test_a_folder_that_cannot_be_synced_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not here")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    files.write_atomically(tmp_path / "new.bin", b"new")
    assert (tmp_path / "new.bin").read_bytes() == b"new"


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_atomically(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        files.write_atomically(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    files.write_atomically(path, b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and permissions")
def test_links_and_permissions_stay(tmp_path: Path, write: Write) -> None:
    old_umask = os.umask(0o027)
    try:
        write(tmp_path / "new.bin")
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE((tmp_path / "new.bin").stat().st_mode) == 0o640
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "real.bin").chmod(0o604)
    (tmp_path / "link.bin").symlink_to("real.bin")
    write(tmp_path / "link.bin")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() != b"old"
    assert stat.S_IMODE((tmp_path / "real.bin").stat().st_mode) == 0o604
