"""Compilation of C sources for this machine with its own C compiler, once each, and loading of the libraries."""

import ctypes
import functools
import hashlib
import os
import platform
import re
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
PLAIN_FLAGS = ("-O3", "-fopenmp-simd", "-fno-math-errno", "-shared", "-fPIC")  # of any C compiler
OFF = "SHOAL_NO_KERNELS"
Command = tuple[str, ...]
SECONDS = 3.0  # duration of compiling, for estimates


@dataclass(frozen=True)
class Kernels:
    """Compiled library or None, a note that names it or says why there is none, and a key of its last bits."""

    library: ctypes.CDLL | None
    note: str
    key: str = ""


@functools.cache
def kernels() -> Kernels:
    """Kernels of training for this machine; see :func:`compiled`."""
    return compiled(SOURCE)


@functools.cache
def compiled(source: Path) -> Kernels:
    """Library of a C source for this machine, compiled on first use and kept in the user's cache folder."""
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


def is_compiled(*sources: Path) -> bool:
    """Return True if :func:`compiled` will find a library of each source, unless a cached one is damaged.

    Args:
        sources: the sources; that of :func:`kernels` when none is given.
    """
    compiler = _compiler()
    try:
        if compiler is None:
            return False
        attempts = _flags(compiler)
        return all(
            any(cache.has(_prefix(source, compiler, flags)) for flags in attempts) for source in sources or [SOURCE]
        )
    except (OSError, subprocess.TimeoutExpired):  # a compiler that does not answer: kernels() will say so
        return False


def _compiler() -> Command | None:
    """C compiler with its own arguments, of which ``CC`` may have some."""
    try:
        wanted = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # an open quotation mark
        return None
    for name, *arguments in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
        if path := shutil.which(name):
            return (path, *arguments)
    return None


def _flags(compiler: Command) -> list[Command]:
    """Sets of compiler flags, best first. Threads need gcc, whose OpenMP runtime torch brings along on Linux."""
    runtime = openmp_runtime()
    if runtime is None or "Free Software Foundation" not in _version(compiler):
        return [FLAGS, PLAIN_FLAGS]
    return [(*FLAGS, *OPENMP, str(runtime)), FLAGS, PLAIN_FLAGS]


def _compiled(source: Path, compiler: Command, flags: Command) -> tuple[ctypes.CDLL, str]:
    """Library of this source, compiler and processor; and where it is not cached, the reason."""
    prefix = _prefix(source, compiler, flags)
    cached = cache.find(prefix)
    if cached is not None:
        return cached, ""
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
    """Hash of everything that the library depends on."""
    parts = [*_texts(source), _version(compiler), *compiler[1:], " ".join(flags), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _texts(source: Path) -> list[str]:
    """Text of a source, then those of the headers beside it that it includes, and that these include."""
    text = source.read_text(encoding="utf-8")
    headers = re.findall(r'^#include "(.+)"$', text, re.MULTILINE)
    return [text, *(inner for header in headers for inner in _texts(source.parent / header))]


@functools.cache
def _version(compiler: Command) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=30).stdout


def _processor() -> str:
    """Description of the processor for ``-march=native``: a cache folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.node()}"
