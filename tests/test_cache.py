"""What is kept of compiled libraries: nothing that another user may have written is ever loaded."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from shoal.fast import cache
from shoal.lab import environment

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
NOBODY = 65534


def library(folder, answer):
    """The bytes of a library whose ``answer()`` is a number; they differ with the number alone."""
    source, made = folder / f"{answer}.c", folder / f"{answer}.so"
    source.write_text(f"int answer(void) {{ return {answer}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made.read_bytes()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache folder that is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shoal"


@pytest.fixture
def loose():
    """A user to whom every file is everyone's to write."""
    before = os.umask(0)
    yield
    os.umask(before)


def plant(place, content, prefix="k"):
    path = place / f"{prefix}-{cache._checksum(content)}.so"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_what_is_kept_is_found_again(place, tmp_path, loose):
    assert cache.find("k") is None and not cache.has("k")
    assert cache.keep("k", library(tmp_path, 41)).answer() == 41
    assert cache.has("k") and cache.find("k").answer() == 41
    assert cache.find("other") is None and not cache.has("other")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    (kept,) = place.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_library_that_another_user_put_there_is_not_loaded(place, tmp_path):
    place.mkdir(parents=True)
    place.chmod(0o777)
    path = plant(place, library(tmp_path, 666))
    os.chown(path, NOBODY, NOBODY)
    assert cache.find("k") is None
    assert stat.S_IMODE(place.stat().st_mode) == 0o700  # nobody can put another there
    assert cache.keep("k", library(tmp_path, 1)).answer() == cache.find("k").answer() == 1


@pytest.mark.parametrize("how", ["group may write", "link", "second name", "pipe", "changed"])
def test_a_library_that_may_be_another_users_is_not_loaded(place, tmp_path, how):
    content = library(tmp_path, 666)
    place.mkdir(parents=True)
    path = plant(place, content)
    assert cache.find("k").answer() == 666  # as it is
    if how == "group may write":
        path.chmod(0o660)
    elif how == "link":
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
    elif how == "second name":
        os.link(path, tmp_path / "second.so")
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path, 0o600)
    else:
        path.unlink()  # in place, it would change under the library that is loaded
        path.write_bytes(content + b"\0")
        path.chmod(0o600)
    assert cache.find("k") is None


@pytest.mark.parametrize("whose", ["folder", "link", "parent"])
def test_in_a_folder_of_another_user_nothing_is_loaded_or_kept(place, tmp_path, monkeypatch, whose):
    content = library(tmp_path, 666)
    if whose == "link":
        (tmp_path / "theirs").mkdir()
        place.parent.mkdir()
        place.symlink_to(tmp_path / "theirs")
        plant(tmp_path / "theirs", content)
    else:
        (place if whose == "folder" else place.parent).mkdir(parents=True)
        monkeypatch.setattr(cache.os, "geteuid", lambda: NOBODY)
        if whose == "parent":  # as with sudo and the home of who called it
            monkeypatch.setattr(cache, "_ROOT", NOBODY - 1)
        else:
            plant(place, content)
    before = sorted(tmp_path.rglob("*"))
    assert cache.find("k") is None and not cache.has("k")
    with pytest.raises(OSError):
        cache.keep("k", content)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_was_hashed_is_what_is_loaded(place, tmp_path, monkeypatch):
    honest, other = library(tmp_path, 1), library(tmp_path, 666)
    place.mkdir(parents=True)
    kept = plant(place, honest)

    def swapped(content, checksum=cache._checksum):
        replacement = tmp_path / "replacement"
        replacement.write_bytes(other)
        replacement.rename(kept)
        return checksum(content)

    monkeypatch.setattr(cache, "_checksum", swapped)
    assert cache.find("k").answer() == 1
    assert kept.read_bytes() == other


def test_a_library_that_is_kept_nowhere_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    assert cache.load_once(library(tmp_path, 7)).answer() == 7
    assert not list((tmp_path / "scratch").iterdir())


def test_libraries_of_one_process_are_told_apart(place, tmp_path):
    first, second = cache.keep("a", library(tmp_path, 1)), cache.keep("b", library(tmp_path, 2))
    assert (first.answer(), second.answer()) == (1, 2)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_repository_around_is_asked_without_running_its_programs(tmp_path, monkeypatch):
    def git(*command):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=tmp_path, check=True)

    source, ran = tmp_path / "environment.py", tmp_path / "ran"
    source.write_text("")
    git("init", "-q")
    git("add", "environment.py")
    git("commit", "-qm", "first")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    git("config", "core.fsmonitor", str(program))
    git("config", "filter.any.clean", f"touch {ran}; cat")
    (tmp_path / ".git" / "info").mkdir(exist_ok=True)
    (tmp_path / ".git" / "info" / "attributes").write_text("*.py filter=any\n")
    os.utime(source, (1, 1))  # so that the index has something to refresh
    monkeypatch.setattr(environment, "__file__", str(source))
    commit = environment._git_commit()
    assert commit is not None and not commit.endswith("+")
    assert not Path(ran).exists()
    environment._commit_of.cache_clear()
    source.write_text("x = 1\n")
    assert environment._git_commit() == f"{commit}+"
    git("add", "environment.py")  # it runs the filter
    environment._commit_of.cache_clear()
    assert environment._git_commit() == f"{commit}+", "staged, and not committed"
