"""Seeded mutations: breaks a copy of the tree by one patch at a time, and asks whether the tests that it names fail.

    python tests/mutations/run.py [NAME ...]

NAME.patch is a unified diff against this tree, below lines that `git apply` ignores:

    what is broken, in one line
    caught by: tests/test_a.py::test_b[c] tests/test_d.py -k "e and not f"
    ends: timeout        (or crash; only where the tests do not end, or end the interpreter)

A mutation is caught if these tests pass without it and fail with it. The exit status is 0 if all are.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Mutation(NamedTuple):
    """A patch: what it breaks, pytest's arguments, how the tests end (failed, timeout, crash), and the files it changes."""

    path: Path
    what: str
    tests: tuple[str, ...]
    ends: str
    files: tuple[str, ...]


def read(path: Path) -> Mutation:
    """The mutation of a patch. Raises ValueError where its header is none."""
    text = path.read_text(encoding="utf-8")
    header = [line for line in text.partition("\n--- a/")[0].splitlines() if line]
    said = {"ends": "failed"} | dict(line.split(": ", 1) for line in header[1:] if ": " in line)
    if len(header) < 2 or set(said) != {"ends", "caught by"} or said["ends"] not in ("failed", "timeout", "crash"):
        raise ValueError(f"{path}: expected a line of what is broken, 'caught by: TESTS', at most 'ends: timeout' or crash")
    files = re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)
    return Mutation(path, header[0], tuple(shlex.split(said["caught by"])), said["ends"], tuple(files))


def git(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run git. Below another repository, `git apply` would leave out what is outside of the current folder."""
    env = os.environ | {"GIT_CEILING_DIRECTORIES": str(cwd.parent)}
    return subprocess.run(["git", *arguments], cwd=cwd, env=env, capture_output=True, text=True)


def copy_tree(target: Path) -> None:
    """The files of the tree as they are now, without what git ignores. Times are kept: Numba's cache compares them."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode:
        sys.exit(f"run.py: cannot list the files of {ROOT}: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@contextlib.contextmanager
def applied(mutation: Mutation, tree: Path) -> Iterator[str]:
    """The copy with a mutation; yields git's message where the patch does not apply."""
    result = git("apply", str(mutation.path.resolve()), cwd=tree)
    try:
        yield result.stderr.strip()
    finally:
        for name in mutation.files:
            shutil.copy2(ROOT / name, tree / name)


def outcome(tests: tuple[str, ...], tree: Path, seconds: float) -> tuple[str, str]:
    """How tests end in the copy (passed, failed, timeout, crash, or error: of pytest itself), and the end of its output.

    The folder of compiled kernels is named by a hash of all their sources: mutations share it unless they change a kernel.
    """
    env = {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(tree.parent / "kernels")}
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # two mutations of a file may have the same size and second
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "-p", "no:cacheprovider", *tests]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        process = subprocess.Popen(command, cwd=tree, env=os.environ | env, stdout=out, stderr=out, start_new_session=True)
        try:
            code = process.wait(seconds)
        except BaseException as error:  # Ctrl-C, too, which a session of its own does not receive
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return "timeout", ""
        out.seek(0)
        said = out.read()[-2000:]
    if code == 0 and re.search(r"\d+ passed", said) and not re.search(r"\d+ skipped", said):  # skipped tests say nothing
        return "passed", said
    return "failed" if code == 1 else "crash" if code < 0 else "error", said


def main(argv: list[str] | None = None) -> int:
    """Print a table of the mutations; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations (default: all)")
    parser.add_argument("--list", action="store_true", help="list them, and run nothing")
    parser.add_argument("--patches", type=Path, default=HERE, metavar="FOLDER", help="of patches (default: this file's)")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="of the tests of one (default: 120)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there: the next run finds its kernels compiled")
    args = parser.parse_args(argv)
    paths = {path.stem: path for path in sorted(args.patches.glob("*.patch"))}
    if unknown := [name for name in args.names if name not in paths]:
        parser.error(f"no mutation is named {', '.join(unknown)}: see --list")
    mutations = {name: read(paths[name]) for name in args.names or paths}
    if args.list:
        print("\n".join(f"{name:36} {mutation.what}" for name, mutation in mutations.items()))
        return 0
    whole: dict[tuple[str, ...], tuple[str, str]] = {}  # outcomes without a mutation
    caught = 0
    with contextlib.ExitStack() as stack:
        folder = args.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="gvae-mutations-"))
        tree = Path(folder).resolve() / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        copy_tree(tree)
        print(f"{'mutation':36} caught  seconds")
        for name, mutation in mutations.items():
            if mutation.tests not in whole:  # all kernels may have to be compiled
                whole[mutation.tests] = outcome(mutation.tests, tree, 5 * args.timeout)
            start, (ends, said), why = time.monotonic(), whole[mutation.tests], "its tests do not pass without it"
            if ends == "passed":
                with applied(mutation, tree) as refused:
                    ends, said = ("refused", refused) if refused else outcome(mutation.tests, tree, args.timeout)
                why = "" if ends == mutation.ends else "it survives" if ends == "passed" else f"expected {mutation.ends}"
            print(f"{name:36} {'no' if why else 'yes':6} {time.monotonic() - start:8.1f}", flush=True)
            caught += not why
            if why:
                print(f"    {mutation.what}\n    {why} ({ends}): {said}")
    print(f"{caught} of {len(mutations)} caught")
    return int(caught < len(mutations))


if __name__ == "__main__":
    sys.exit(main())
