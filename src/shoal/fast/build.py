"""Libraries in C, compiled for this machine with its own C compiler, once each, and loaded."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shoal.fast import cache
from shoal.fast.threads import openmp_runtime

SOURCE = Path(__file__).with_name("kernels.c")  # of training
# An unlimited peel would make the order of a sum depend on where in memory a row begins.
FLAGS = (
    *("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"),
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
    "--param=vect-max-peeling-for-alignment=0",
)
OPENMP = ("-fopenmp", "-Wl,--as-needed")  # and torch's own runtime: two would take the cores from each other
PLAIN_FLAGS = ("-O3", "-fopenmp-simd", "-fno-math-errno", "-shared", "-fPIC")  # what any C compiler takes
OFF = "SHOAL_NO_KERNELS"
Command = tuple[str, ...]
SECONDS = 3.0  # that compiling takes, for estimates


@dataclass(frozen=True)
class Kernels:
    """The compiled library, or why there is none; and what tells it from one that computes other last bits."""

    library: ctypes.CDLL | None
    note: str
    key: str = ""


@functools.cache
def kernels() -> Kernels:
    """The kernels of training for this machine; see :func:`compiled`."""
    return compiled(SOURCE)


@functools.cache
def compiled(source: Path) -> Kernels:
    """The library of a source file for this machine, compiled on first use and kept in the user's cache folder."""
    compiler = _compiler()
    if os.environ.get(OFF):
        return Kernels(None, f"{OFF} is set")
    if compiler is None:
        wanted = os.environ.get("CC")
        return Kernels(None, f"CC={wanted} is no program" if wanted else "there is no C compiler on this machine")
    try:
        attempts = _flags(compiler)
    except (OSError, subprocess.TimeoutExpired) as failure:
        return Kernels(None, str(failure))
    error, name = "", Path(compiler[0]).name
    for flags in attempts:
        try:
            library, unkept = _compiled(source, compiler, flags)
            return Kernels(library, f"kernels compiled by {name}{unkept}", _key(source, compiler, flags))
        except subprocess.CalledProcessError as failure:  # a flag that this compiler does not know, perhaps
            error = (failure.stderr.strip().splitlines() or ["no message"])[0]
        except OSError as failure:
            error = str(failure)
        except subprocess.TimeoutExpired as failure:  # others would take as long
            error = str(failure)
            break
    return Kernels(None, f"{name} did not compile the kernels: {error}")


def is_compiled() -> bool:
    """Whether :func:`kernels` will find them compiled, unless what was kept is damaged."""
    compiler = _compiler()
    try:
        return compiler is not None and any(cache.has(_prefix(SOURCE, compiler, flags)) for flags in _flags(compiler))
    except (OSError, subprocess.TimeoutExpired):  # a compiler that does not answer: kernels() will say so
        return False


def _compiler() -> Command | None:
    """The compiler with its own arguments: ``CC`` may have some."""
    try:
        wanted = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # an open quotation mark
        return None
    for name, *arguments in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        if found := shutil.which(name):
            return (found, *arguments)
    return None


def _flags(compiler: Command) -> list[Command]:
    """What to compile with, best first. Threads need gcc, whose OpenMP runtime torch brings along on Linux."""
    runtime = openmp_runtime()
    if runtime is None or "Free Software Foundation" not in _version(compiler):
        return [FLAGS, PLAIN_FLAGS]
    return [(*FLAGS, *OPENMP, str(runtime)), FLAGS, PLAIN_FLAGS]


def _compiled(source: Path, compiler: Command, flags: Command) -> tuple[ctypes.CDLL, str]:
    """The library of this source, compiler and processor; and where it is not kept, why not."""
    prefix = _prefix(source, compiler, flags)
    kept = cache.find(prefix)
    if kept is not None:
        return kept, ""
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        made = Path(folder) / f"{source.stem}.so"
        command = [*compiler, "-o", str(made), str(source), *flags, "-lm"]
        subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        content = made.read_bytes()
    try:
        return cache.keep(prefix, content), ""
    except OSError as error:  # full, or not ours to write
        return cache.load_once(content), f", for this process alone: {error}"


def _prefix(source: Path, compiler: Command, flags: Command) -> str:
    return f"{source.stem}-{_key(source, compiler, flags)}"


@functools.cache
def _key(source: Path, compiler: Command, flags: Command) -> str:
    """What the library depends on."""
    parts = [source.read_text(encoding="utf-8"), _version(compiler), *compiler[1:], " ".join(flags), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def _version(compiler: Command) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=30).stdout


def _processor() -> str:
    """What ``-march=native`` depends on: a cache folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.node()}"
