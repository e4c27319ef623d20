"""Compile ``kernels.c`` for this machine with its own C compiler, once, and load it."""

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shoal.fast.threads import openmp_runtime

SOURCE = Path(__file__).with_name("kernels.c")
# An unlimited peel would make the order of a sum depend on where in memory a row begins.
FLAGS = (
    *("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"),
    *("-mprefer-vector-width=512", "--param=vect-max-peeling-for-alignment=0"),
)
OPENMP = ("-fopenmp", "-Wl,--as-needed")  # and torch's own runtime: two would take the cores from each other
PLAIN_FLAGS = ("-O3", "-fopenmp-simd", "-fno-math-errno", "-shared", "-fPIC")  # what any C compiler takes
OFF = "SHOAL_NO_KERNELS"
SECONDS = 3.0  # that compiling takes, for estimates


@dataclass(frozen=True)
class Kernels:
    """The compiled library, or why there is none."""

    library: ctypes.CDLL | None
    note: str


@cache
def kernels() -> Kernels:
    """The kernels of this machine, compiled on first use and kept in the user's cache folder."""
    compiler = _compiler()
    if os.environ.get(OFF):
        return Kernels(None, f"{OFF} is set")
    if compiler is None:
        return Kernels(None, "there is no C compiler on this machine")
    try:
        attempts = _flags(compiler)
    except (OSError, subprocess.TimeoutExpired) as failure:
        return Kernels(None, str(failure))
    error = ""
    for flags in attempts:
        try:
            return Kernels(ctypes.CDLL(str(_compiled(compiler, flags))), f"kernels compiled by {Path(compiler).name}")
        except subprocess.CalledProcessError as failure:
            error = (failure.stderr.strip().splitlines() or ["no message"])[0]
        except (OSError, subprocess.TimeoutExpired) as failure:
            error = str(failure)
    return Kernels(None, f"{Path(compiler).name} did not compile the kernels: {error}")


def is_compiled() -> bool:
    """Whether :func:`kernels` will find them compiled."""
    compiler = _compiler()
    try:
        return compiler is not None and any(_path(compiler, flags).exists() for flags in _flags(compiler))
    except (OSError, subprocess.TimeoutExpired):  # a compiler that does not answer: kernels() will say so
        return False


def _compiler() -> str | None:
    wanted = os.environ.get("CC")
    return shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def _flags(compiler: str) -> list[tuple[str, ...]]:
    """What to compile with, best first. Threads need gcc, whose OpenMP runtime torch brings along on Linux."""
    runtime = openmp_runtime()
    if runtime is None or "Free Software Foundation" not in _version(compiler):
        return [FLAGS, PLAIN_FLAGS]
    return [(*FLAGS, *OPENMP, str(runtime)), FLAGS, PLAIN_FLAGS]


def _compiled(compiler: str, flags: tuple[str, ...]) -> Path:
    """The shared library for this source, compiler and processor."""
    path = _path(compiler, flags)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_kept = os.access(path.parent, os.W_OK)
    except OSError:
        is_kept = False
    return _compile(compiler, flags, path if is_kept else _own_folder() / path.name)


@cache
def _path(compiler: str, flags: tuple[str, ...]) -> Path:
    """Where the library for this source, compiler and processor is kept."""
    parts = [SOURCE.read_text(encoding="utf-8"), _version(compiler), " ".join(flags), _processor()]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal"
    except RuntimeError:  # a user without a home, as in some containers
        folder = _own_folder()
    return folder / f"kernels-{name}.so"


@cache
def _own_folder() -> Path:
    """A folder of this process alone, for where there is none to keep anything in."""
    folder = tempfile.mkdtemp(prefix="shoal-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30).stdout


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> Path:
    partial = path.with_suffix(f".{os.getpid()}")  # several processes may do this at once; renaming is atomic
    try:
        command = [compiler, "-o", str(partial), str(SOURCE), *flags, "-lm"]
        subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _processor() -> str:
    """What ``-march=native`` depends on: a cache folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.node()}"
