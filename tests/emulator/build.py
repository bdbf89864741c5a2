"""g++ builds, cached by a hash of everything that goes into them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent

# Two sanitizers instrument the kernels and call handlers of our own (cuda_on_cpu.h), so their libraries are not linked.
CHECKS = (
    "-fsanitize=thread",
    "-fsanitize=bounds,alignment,null,shift,integer-divide-by-zero,signed-integer-overflow,return,unreachable",
    "--param=tsan-instrument-func-entry-exit=0",
    "--param=tsan-distinguish-volatile=1",
    "-ftrivial-auto-var-init=pattern",  # what a kernel does not initialise is -1.7e38 and -5.5e303
)
FLAGS = (
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-ffp-contract=off",  # a product and a sum are two roundings unless the source says fma
    "-fno-exceptions",
    "-fvisibility=hidden",  # with the next: two modules' statics of one template stay two
    "-fno-gnu-unique",
    "-Werror=uninitialized",
)


class BuildError(RuntimeError):
    """The host compiler refused a source."""


@functools.cache
def compiler() -> str | None:
    """g++, or None if it is missing or too old to instrument the kernels."""
    path = shutil.which("g++")
    if path is None or platform.system() != "Linux":
        return None
    command = [path, *FLAGS, *CHECKS, "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(command, input="static thread_local int x; int f() { return x; }", capture_output=True, text=True)
    return path if done.returncode == 0 else None


def why_not() -> str | None:
    """What is missing for the emulator to work, or None."""
    if platform.system() != "Linux":
        return "the CUDA emulator needs Linux"
    return None if compiler() else "the CUDA emulator needs g++ 12 or newer"


@functools.cache
def version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True).stdout


def cache_folder() -> Path:
    """GVAE_EMULATOR_CACHE, or a folder of this user's own under the system's temporary folder."""
    chosen = os.environ.get("GVAE_EMULATOR_CACHE")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"gvae-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise BuildError(f"{folder} belongs to somebody else; set GVAE_EMULATOR_CACHE to a folder of your own")
    return folder


def shared_library(
    source: str,
    flags: tuple[str, ...],
    files: tuple[str, ...],
    header: str | None = None,
    options: tuple[str, ...] = (),
) -> Path:
    """Compile and link `source`, which may include `files` of this folder; the same inputs give the file made before.

    header  : one that the source includes first; compiled once for all sources with these flags
    options : flags of this source alone, which do not concern the header
    """
    library = cache_folder() / f"{_key((*flags, *options), files, source)}.so"
    if library.exists():
        return library
    if header:
        flags = ("-I", str(_precompiled(header, flags, files)), *flags)
    flags += options
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        compiled, linked = Path(scratch) / "unit.o", Path(scratch) / "unit.so"
        _run(*FLAGS, *flags, "-I", str(HERE), "-x", "c++", "-c", "-", "-o", str(compiled), source=source)
        _run("-shared", str(compiled), "-o", str(linked), "-ldl")
        linked.replace(library)  # at once or not at all: others may be building the same
    return library


def _precompiled(header: str, flags: tuple[str, ...], files: tuple[str, ...]) -> Path:
    """The folder with the compiled form of a header of this folder; g++ takes it for the header where its flags agree."""
    folder = cache_folder() / f"{_key(flags, files, header)}.headers"
    compiled = folder / f"{header}.gch"
    if not compiled.exists():
        _forget_old_builds()
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            target = Path(scratch) / "header"
            _run(*FLAGS, *flags, "-x", "c++-header", str(HERE / header), "-o", str(target))
            target.replace(compiled)
    return folder


def _forget_old_builds() -> None:
    """What is older than a week was made for another version of this folder, most likely; 16 MB each."""
    for path in cache_folder().glob("*"):
        with contextlib.suppress(OSError):  # somebody else may be at it
            if path.stat().st_mtime < time.time() - 7 * 24 * 3600:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _run(*arguments: str, source: str | None = None) -> None:
    done = subprocess.run([compiler(), *arguments], input=source, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(done.stderr.strip())


def _key(flags: tuple[str, ...], files: tuple[str, ...], source: str) -> str:
    texts = [(HERE / name).read_text(encoding="utf-8") for name in files]
    return hashlib.sha256("\0".join([version(), str(HERE), *FLAGS, *flags, source, *texts]).encode()).hexdigest()[:32]


def line_of(library: Path, offset: int) -> str | None:
    """'file:line' of an instruction, if addr2line can tell."""
    tool = shutil.which("addr2line")
    if tool is None:
        return None
    done = subprocess.run([tool, "-e", str(library), hex(offset)], capture_output=True, text=True)
    place = done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else "??"
    return None if place.startswith("??") else place
