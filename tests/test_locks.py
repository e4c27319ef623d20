"""Locks of a lab, on file systems that have some kinds of them and not others."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import warnings

import pytest

from shoal.errors import LabError
from shoal.lab import locks

FLOCK, BYTES, NONE = "flock", "bytes", "none"
HELD = """
import fcntl, sys
from pathlib import Path
from shoal.lab import locks
kind, path = sys.argv[1], Path(sys.argv[2])
if kind != "flock":
    locks._KINDS = locks._KINDS[1:] if kind == "bytes" else ()
import warnings; warnings.simplefilter("ignore")
with locks.locked(path, 0.1, "busy"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=[FLOCK, BYTES, NONE])
def kind(request, monkeypatch):
    """What the file system has: the calls that it lacks fail as they do there."""

    def missing(number):
        def call(*_):
            raise OSError(number, os.strerror(number))

        return call

    if request.param != FLOCK:
        monkeypatch.setattr(fcntl, "flock", missing(errno.ENOSYS))
    if request.param == NONE:
        monkeypatch.setattr(fcntl, "fcntl", missing(errno.EOPNOTSUPP))
    return request.param


def held(kind, path):
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, kind, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.filterwarnings("ignore:the file system of")
def test_a_lock_is_one_process_at_a_time(kind, tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_locked(path)
    with locks.locked(path, 0.1, "busy"):
        assert locks.is_locked(path)
        with pytest.raises(LabError, match="busy"), locks.locked(path, 0.1, "busy"):
            pass
        assert locks.is_locked(path)  # looking at it, or failing to have it, does not give it back
    assert not locks.is_locked(path)
    with locks.locked(path, 0.1, "busy"):
        pass


@pytest.mark.filterwarnings("ignore:the file system of")
def test_who_waits_for_a_lock_that_is_moved_away_gets_the_one_in_its_place(kind, tmp_path):
    path = tmp_path / "cohort" / "lock"
    path.parent.mkdir()
    seen = []

    def wait():
        with locks.locked(path, 5.0, "busy"):
            seen.append(locks.is_locked(path))

    waiter = threading.Thread(target=wait)
    with locks.locked(path, 0.1, "busy"):
        waiter.start()
        waiter.join(0.2)
        path.parent.rename(tmp_path / "away")
        path.parent.mkdir()
    waiter.join()
    assert seen == [True]
    assert not locks.is_locked(path)


@pytest.mark.filterwarnings("ignore:the file system of")
@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_lock_ends_with_its_process(kind, tmp_path, end):
    path = tmp_path / "lock"
    with held(kind, path) as process:
        assert locks.is_locked(path)
        with pytest.raises(LabError, match="busy"), locks.locked(path, 0.1, "busy"):
            pass
        if end == "ends":
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            process.kill()
        process.wait()
    assert not locks.is_locked(path)
    with locks.locked(path, 0.1, "busy"):
        assert locks.is_locked(path)


def test_without_any_lock_a_file_says_who_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_KINDS", ())
    path, sign = tmp_path / "lock", tmp_path / "lock-holder.json"
    with pytest.warns(UserWarning, match="has no locks"), locks.locked(path, 0, "busy"):
        whole = sign.read_bytes()
        assert str(os.getpid()).encode() in whole
    assert not sign.exists()
    sign.write_bytes(whole.replace(locks.platform.node().encode(), b"elsewhere"))
    with pytest.raises(LabError, match=f"busy; .*elsewhere, process {os.getpid()}"), locks.locked(path, 0, "busy"):
        pass
    assert sign.exists()  # whether that process goes on cannot be known here
    sign.write_text("{")
    with pytest.raises(LabError, match="unknown"), locks.locked(path, 0, "busy"):
        pass
    assert sorted(item.name for item in tmp_path.iterdir()) == ["lock", "lock-holder.json"]


def test_of_two_that_take_over_from_a_process_that_is_gone_one_does(tmp_path, monkeypatch):
    sign = tmp_path / "lock-holder.json"
    gone = {"host": locks.platform.node(), "process": 999_999_999, "began": "1"}
    sign.write_text(locks.json.dumps(gone))
    rename, sooner = os.rename, []

    def raced(self, target):
        if not sooner:  # between our look and our taking over, another process took over
            sooner.append(1)
            sign.write_text(locks.json.dumps(locks._self()))
        return rename(self, target)

    monkeypatch.setattr(locks.Path, "rename", raced)
    with pytest.raises(BlockingIOError):
        locks._take_sign(sign)
    assert locks._holder(sign)["process"] == os.getpid()


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_a_group_can_share_a_lock_where_the_umask_says_so(tmp_path, mask):
    before = os.umask(mask)
    try:
        with locks.locked(tmp_path / "lock", 0, "busy"):
            assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666 & ~mask
    finally:
        os.umask(before)


def test_a_lock_that_may_only_be_read_serves(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()

    def read_only(path, flags, *mode, opened=os.open):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *mode)

    monkeypatch.setattr(locks.os, "open", read_only)
    with locks.locked(tmp_path / "lock", 0, "busy"):
        assert locks.is_locked(tmp_path / "lock")


def test_a_lock_is_no_link(tmp_path):
    path, elsewhere = tmp_path / "lock", tmp_path / "elsewhere"
    path.symlink_to(elsewhere)
    with pytest.raises(LabError, match="cannot be written"), locks.locked(path, 0, "busy"):
        pass
    assert not elsewhere.exists()
    assert not locks.is_locked(path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_says_so_in_its_own_way_is_understood(tmp_path, monkeypatch, number):
    def missing(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locks.locked(tmp_path / "lock", 0, "busy"):
            assert locks.is_locked(tmp_path / "lock")


@pytest.mark.parametrize("kinds", [FLOCK, BYTES])
def test_a_lock_that_has_to_be_written_to_be_held_is_not_replaced_by_a_sign(tmp_path, monkeypatch, kinds):
    path = tmp_path / "lock"
    path.touch(0o444)
    opened = os.open

    def read_only(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *mode)

    def unwritable(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(locks.os, "open", read_only)
    if kinds == FLOCK:  # as over a network, where it is one of bytes
        monkeypatch.setattr(fcntl, "flock", unwritable)
    else:
        monkeypatch.setattr(locks, "_KINDS", locks._KINDS[1:])  # where the kernel refuses by itself
    with pytest.raises(LabError, match=r"lock cannot be written; .*chmod g\+w"), locks.locked(path, 0, "busy"):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("change", [{"process": 10**30}, {"process": -1}, {"process": "1"}, {"host": [1]}, None])
def test_a_sign_that_no_process_made_is_of_one_that_is_not_known(tmp_path, change):
    sign = tmp_path / "lock-holder.json"
    if change is None:
        os.mkfifo(sign)  # nor waited for
    else:
        sign.write_text(locks.json.dumps({**locks._self(), **change}))
    assert locks._holder(sign)["process"] == "unknown"
