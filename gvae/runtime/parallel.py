"""Ranks: processes that share the steps of a training run, or the batches of an evaluation.

A `Communicator` has the rank of this process and the number of ranks, exchanges values between all ranks, and sums buffers
over them. The base class is for a process on its own, where these operations do nothing; `MPI` is for a communicator of
mpi4py.

Sums do not depend on the number of ranks, R: they are taken along a complete binary tree, node = left + right, whose
leaves are numbered parts of the work. A rank owns neighbouring leaves and adds their subtree; the upper levels are added by
recursive halving with the nearest ranks first, and every rank receives the total by recursive doubling: each rank sends
2 log2 R messages, with 2 (R - 1) / R times the size of the buffer, as in an allreduce of MPI for long messages. MPI moves
the bytes only, since its own reductions do not guarantee an order. Source of the schedule: Rabenseifner (2004),
"Optimization of collective reduction operations"; ReproRed, in RAxML-NG, also has trees of a fixed shape for equal bits.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gvae.errors import ConfigError, DependencyError, RankError
from gvae.runtime import device, limits

__all__ = ["ALONE", "HUNG", "MPI", "Buffer", "Communicator", "is_power_of_two", "launched", "of", "schedule", "world"]

HUNG = 124  # the exit code of a process to which the other ranks do not answer
LAUNCHERS = (  # where they state the number of ranks, and which of them a process is
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


class Buffer:
    """n numbers and a tail of float64 numbers. In host memory both are in one block, so that one message can hold them.

    Parameters
    ----------
    n : int
    dtype : dtype
    tail : int
        The length of the tail.
    where : {"cpu", "cuda"}, default "cpu"
        Where the numbers are. The tail is in host memory.

    Attributes
    ----------
    flat : array (n,)
    tail : float64 array (tail,)
    memory : uint8 array
        The block of memory that has both, if they are in host memory.

    Examples
    --------
    >>> from gvae.runtime.parallel import Buffer
    >>> left, right = Buffer(3, np.float32, 1), Buffer(3, np.float32, 1)
    >>> left.flat[:], right.flat[:], right.tail[:] = 1, 2, 5
    >>> left.plus(right)
    >>> left.flat, left.tail
    (array([3., 3., 3.], dtype=float32), array([5.]))
    """

    def __init__(self, n: int, dtype: Any, tail: int, where: str = "cpu"):
        self.size = n * np.dtype(dtype).itemsize
        self.begin = -(-self.size // 8) * 8  # where the tail begins, in bytes
        self.memory = np.zeros(self.begin + 8 * tail, np.uint8)
        self.tail = self.memory[self.begin :].view(np.float64)
        self.flat: Any = self.memory[: self.size].view(dtype)
        if where != "cpu":
            self.flat = device.module(where).zeros(n, dtype)

    def clear(self) -> None:
        """Set all numbers to 0.

        Examples
        --------
        >>> buffer = gvae.runtime.parallel.Buffer(2, np.float64, 1)
        >>> buffer.tail[:] = 3
        >>> buffer.clear()
        >>> buffer.tail
        array([0.])
        """
        self.flat[...] = 0
        self.tail[...] = 0

    def plus(self, right: Buffer, begin: int = 0, end: int | None = None) -> None:
        """Add the numbers of another buffer from `begin` to `end`, and its tail.

        Parameters
        ----------
        right : Buffer
        begin, end : int, optional

        Examples
        --------
        >>> left, right = (gvae.runtime.parallel.Buffer(3, np.float64, 1) for _ in range(2))
        >>> right.flat[:] = 1, 2, 3
        >>> left.plus(right, 1)
        >>> left.flat
        array([0., 2., 3.])
        """
        mine = self.flat[begin:end]
        device.namespace(mine).add(mine, right.flat[begin:end], out=mine)
        self.tail += right.tail


class Communicator:
    """The ranks of which this process is one; in this base class, it is the only one.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and the number of all processes.
    messages, sent : int
        Messages and bytes that this rank has sent for sums.

    Examples
    --------
    >>> alone = gvae.runtime.parallel.Communicator()
    >>> alone.rank, alone.size, alone.gather("x"), alone.first("x")
    (0, 1, ['x'], 'x')
    """

    rank, size = 0, 1
    messages = sent = 0
    leads_node = True  # whether this is the first rank of its node, which compiles kernels

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, the only one that writes files.

        Examples
        --------
        >>> gvae.runtime.parallel.Communicator().leads
        True
        """
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on all ranks.

        Parameters
        ----------
        value : object
            Any object that can be pickled.

        Returns
        -------
        list
            In the order of the ranks.

        Examples
        --------
        >>> gvae.runtime.parallel.Communicator().gather(3)
        [3]
        """
        return [value]

    def first(self, value: Any) -> Any:
        """The value of rank 0, on all ranks.

        Parameters
        ----------
        value : object
            Any object that can be pickled; the values of other ranks are not used.

        Returns
        -------
        object

        Examples
        --------
        >>> gvae.runtime.parallel.Communicator().first(3)
        3
        """
        return value

    def add(self, buffer: Buffer) -> None:
        """Replace the numbers of a buffer, and its tail, by their sums over all ranks, with the same bits on each.

        Parameters
        ----------
        buffer : Buffer
            It has the same size on all ranks.

        Examples
        --------
        >>> buffer = gvae.runtime.parallel.Buffer(2, np.float64, 1)
        >>> gvae.runtime.parallel.Communicator().add(buffer)
        >>> buffer.flat
        array([0., 0.])
        """

    @contextlib.contextmanager
    def leaders_first(self, what: str) -> Iterator[None]:
        """Run a block on one rank of each node, and then on the others; after the first time for a name, on all at once.

        Kernels that the block needs are then compiled by one process per node, and loaded by the others: processes that fill
        a cache on a network file system at the same time can read incomplete files.

        Parameters
        ----------
        what : str
            The name of the block.

        Examples
        --------
        >>> with gvae.runtime.parallel.Communicator().leaders_first("a step"):
        ...     pass
        """
        yield

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Raise an error of the block on all ranks. The block itself must not communicate.

        Raises
        ------
        ConfigError, RankError
            On the ranks whose block raised nothing, if the block of another rank has raised an error; see `agree`.

        Examples
        --------
        >>> with gvae.runtime.parallel.Communicator().together():
        ...     raise OSError("no space left")
        Traceback (most recent call last):
            ...
        OSError: no space left
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        self.agree(error)

    def agree(self, error: Exception | None) -> None:
        """Raise the errors of all ranks on all of them: their own, or that another rank has one.

        Parameters
        ----------
        error : Exception or None
            The error of this rank.

        Raises
        ------
        ConfigError
            No rank has an error of another kind: settings are those of all ranks.
        RankError
            This rank has no error, or no other than a ConfigError, and another has.

        Examples
        --------
        >>> gvae.runtime.parallel.Communicator().agree(None)
        """
        mine = None if error is None else (isinstance(error, ConfigError), f"{_kind(error)}{error}")
        failed = {rank: found for rank, found in enumerate(self.gather(mine)) if found is not None}
        if not failed:
            return
        of_settings = all(config for config, _ in failed.values())
        if error is not None and isinstance(error, ConfigError) == of_settings:
            raise agreed(error)
        rank, text = next((rank, text) for rank, (config, text) in failed.items() if config == of_settings)
        raise agreed(ConfigError(text) if of_settings else RankError(f"rank {rank}: {text}", rank))

    def check_same(self, what: str, *content: Any, advice: str = "") -> None:
        """Check that arrays or texts are the same on all ranks, by their SHA-256.

        Parameters
        ----------
        what : str
            What they are, in the plural.
        *content : array or str
        advice : str, optional
            Text that is appended to the message of the error.

        Raises
        ------
        RankError
            It names the ranks that differ from the most frequent content (in a tie, that of the lowest rank).

        Examples
        --------
        >>> gvae.runtime.parallel.Communicator().check_same("the parameters", np.zeros(3))
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for part in content:
            digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(device.to_host(part)))
        found = self.gather(digest.hexdigest())
        usual = max(found, key=found.count)
        if odd := [rank for rank, mine in enumerate(found) if mine != usual]:
            ranks = f"rank {odd[0]} has" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))} have"
            raise agreed(RankError(f"{ranks} other {what} than the other ranks{advice}", odd[0]))

    def abort(self, code: int) -> None:
        """End all ranks at once; a process on its own continues.

        Parameters
        ----------
        code : int
            The exit code.

        Examples
        --------
        >>> gvae.runtime.parallel.Communicator().abort(2)
        """


def agreed(error: Exception) -> Exception:
    """Mark an error as known to all ranks.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    Exception
        The same.

    Examples
    --------
    >>> from gvae.runtime.parallel import agreed, is_agreed
    >>> is_agreed(agreed(OSError())), is_agreed(OSError())
    (True, False)
    """
    error.gvae_agreed = True  # type: ignore[attr-defined]
    return error


def is_agreed(error: BaseException | None) -> bool:
    """Whether all ranks know of an error.

    Parameters
    ----------
    error : Exception or None

    Returns
    -------
    bool

    Examples
    --------
    >>> gvae.runtime.parallel.is_agreed(OSError())
    False
    """
    return getattr(error, "gvae_agreed", False)


ALONE = Communicator()


class MPI(Communicator):
    """The ranks of a communicator of mpi4py.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        It is duplicated, so that messages of gvae and of the caller cannot be mixed up.
    hang_timeout : float, optional
        Seconds that a rank waits for the others before it ends its process with exit code 124, which ends the others, too.

    Examples
    --------
    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> gvae.VAE(shards=8).fit(X, comm=MPI.COMM_WORLD)  # doctest: +SKIP
    """

    def __init__(self, comm: Any, hang_timeout: float | None = None):
        from mpi4py import MPI as api

        self.api, self.comm = api, comm.Dup()
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
        self.node = self.comm.Split_type(api.COMM_TYPE_SHARED)
        self.leads_node = self.node.Get_rank() == 0
        self.messages = self.sent = 0
        self.met: set[str] = set()  # names of the blocks that the leaders have already run first
        self.other: Buffer | None = None  # memory for what a partner sends
        self.parts: dict[tuple[int, ...], Any] = {}  # MPI datatypes of messages
        self.waiting: float | None = None  # while this rank waits for others: since when
        if hang_timeout is not None:
            threading.Thread(target=self._watch, args=(hang_timeout,), name="gvae-hang", daemon=True).start()

    @contextlib.contextmanager
    def _waits(self) -> Iterator[None]:
        self.waiting = time.monotonic()
        try:
            yield
        finally:
            self.waiting = None

    def _watch(self, timeout: float) -> None:
        """End this process if others do not answer; higher ranks wait longer, so that only one line is printed."""
        late = timeout + 0.5 * min(self.rank, 20)
        while True:
            time.sleep(min(0.1, timeout / 4))
            since = self.waiting
            if since is not None and time.monotonic() - since > late:
                text = f"gvae: rank {self.rank}: the other ranks have not answered for {timeout:g} s; ended"
                print(text, file=sys.stderr, flush=True)
                os._exit(HUNG)

    def gather(self, value: Any) -> list[Any]:
        with self._waits():
            return self.comm.allgather(value)

    def first(self, value: Any) -> Any:
        with self._waits():
            return self.comm.bcast(value if self.rank == 0 else None)

    @contextlib.contextmanager
    def leaders_first(self, what: str) -> Iterator[None]:
        if what in self.met:
            yield
            return
        self.met.add(what)
        if not self.leads_node:
            self.node.Barrier()  # without the time limit: compiling takes long
        try:
            yield
        finally:
            if self.leads_node:
                self.node.Barrier()

    def add(self, buffer: Buffer) -> None:
        host = buffer
        if device.is_cuda(buffer.flat):
            host = Buffer(len(buffer.flat), buffer.flat.dtype, len(buffer.tail))
            host.flat[:], host.tail[:] = device.to_host(buffer.flat), buffer.tail
        with self._waits():
            self._add(host)
        if host is not buffer:
            buffer.flat[...] = device.to_device(host.flat, "cuda")
            buffer.tail[:] = host.tail

    def _add(self, buffer: Buffer) -> None:
        other = self.other
        if other is None or other.memory.shape != buffer.memory.shape or other.flat.dtype != buffer.flat.dtype:
            other = self.other = Buffer(len(buffer.flat), buffer.flat.dtype, len(buffer.tail))
        halves = schedule(self.rank, self.size, len(buffer.flat))
        for partner, keep, give in halves:
            self._exchange(partner, buffer, self._part(buffer, give, True), other, self._part(buffer, keep, True))
            buffer.plus(other, *keep)  # left + right and right + left have the same bits
        for partner, keep, give in reversed(halves):
            self._exchange(partner, buffer, self._part(buffer, keep), buffer, self._part(buffer, give))

    def _exchange(self, partner: int, buffer: Buffer, part: Any, into: Buffer, where: Any) -> None:
        self.comm.Sendrecv([buffer.memory, 1, part], partner, 0, [into.memory, 1, where], partner, 0)
        self.messages, self.sent = self.messages + 1, self.sent + part.Get_size()

    def _part(self, buffer: Buffer, half: tuple[int, int], tail: bool = False) -> Any:
        """The MPI datatype of a message: a part of a buffer's numbers, and optionally its tail."""
        key = (buffer.size, len(buffer.tail), buffer.flat.itemsize, *half, tail)
        if key not in self.parts:
            begin, end = (place * buffer.flat.itemsize for place in half)
            lengths, places = [end - begin], [begin]
            if tail:
                lengths, places = [*lengths, 8 * len(buffer.tail)], [*places, buffer.begin]
            self.parts[key] = self.api.BYTE.Create_hindexed(lengths, places).Commit()
        return self.parts[key]

    def abort(self, code: int) -> None:
        self.comm.Abort(code)

    def free(self) -> None:
        """Give MPI's own communicators and datatypes back; every rank calls it."""
        for each in (*self.parts.values(), self.node, self.comm):
            each.Free()


@functools.cache
def _attribute() -> int:
    """The key under which a communicator of the caller keeps ours, which is freed together with it.

    MPI has some thousand communicators and no more, so one is not made per call.
    """
    from mpi4py import MPI as api

    return api.Comm.Create_keyval(delete_fn=lambda comm, key, ours: None if api.Is_finalized() else ours.free())


def _kind(error: Exception) -> str:
    """The prefix to the text of an error that is not gvae's own, as on the command line."""
    return "not enough memory: " if isinstance(error, MemoryError) else ""


def schedule(rank: int, size: int, n: int) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    """The exchanges by which a rank adds its part of a sum of n numbers; in reverse, those that distribute the total.

    Parameters
    ----------
    rank, size : int
        The number of ranks, `size`, is a power of two.
    n : int

    Returns
    -------
    list of (int, (int, int), (int, int))
        The partner, the range of the half whose sum is kept, and the range of the half that is sent to the partner.

    Examples
    --------
    >>> gvae.runtime.parallel.schedule(1, 4, 100)
    [(0, (50, 100), (0, 50)), (3, (50, 75), (75, 100))]
    """
    begin, end, distance = 0, n, 1
    found = []
    while distance < size:
        middle = begin + (end - begin) // 2
        keep, give = (begin, middle), (middle, end)
        if rank & distance:
            keep, give = give, keep
        found.append((rank ^ distance, keep, give))
        (begin, end), distance = keep, 2 * distance
    return found


def is_power_of_two(n: int) -> bool:
    """Whether n is 1, 2, 4, ...

    Parameters
    ----------
    n : int

    Returns
    -------
    bool

    Examples
    --------
    >>> [n for n in range(9) if gvae.runtime.parallel.is_power_of_two(n)]
    [1, 2, 4, 8]
    """
    return n > 0 and n & (n - 1) == 0


def of(comm: Any) -> Communicator:
    """A communicator of gvae, from one of mpi4py; the same for the same.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, Communicator or None
        None: only this process.

    Returns
    -------
    Communicator

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> gvae.runtime.parallel.of(None).size
    1
    """
    if comm is None:
        return ALONE
    if isinstance(comm, Communicator):
        return comm
    if not all(hasattr(comm, name) for name in ("Dup", "Sendrecv", "allgather")):
        raise ConfigError(f"comm is {type(comm).__name__}, expected a communicator of mpi4py, such as MPI.COMM_WORLD")
    if comm.Get_size() == 1:
        return ALONE
    ours = comm.Get_attr(_attribute())
    if ours is None:
        ours = MPI(comm)
        comm.Set_attr(_attribute(), ours)
    return ours


def launched() -> tuple[int, int]:
    """What a launcher of MPI has started, according to the environment of this process; mpi4py is not imported.

    Returns
    -------
    size, rank : int
        The number of ranks and the rank of this process: (1, 0) without a launcher.

    Examples
    --------
    >>> gvae.runtime.parallel.launched()
    (1, 0)
    """

    def stated(name: str, otherwise: int) -> int:
        return int(text) if (text := os.environ.get(name, "")).isdigit() else otherwise

    size, rank = max(((stated(size, 1), rank) for size, rank in LAUNCHERS), key=lambda found: found[0])
    return size, stated(rank, 0)


def world(hang_timeout: float | None = None) -> Communicator:
    """The ranks that a launcher has started; only this process unless the environment says that there are several.

    Parameters
    ----------
    hang_timeout : float, optional
        See `MPI`.

    Returns
    -------
    Communicator

    Raises
    ------
    DependencyError
        mpi4py, or an MPI that it finds, is not installed.
    ConfigError
        The launcher belongs to another MPI.

    Examples
    --------
    >>> gvae.runtime.parallel.world().size
    1
    """
    n, _ = launched()
    if n == 1:
        return ALONE
    try:
        from mpi4py import MPI as api
    except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no library of MPI
        reason = " ".join(str(error).split())
        raise DependencyError(
            f"started with {n} ranks, but mpi4py cannot be imported ({reason}): pip install 'gvae[mpi]'"
        ) from None
    if (found := api.COMM_WORLD.Get_size()) != n:
        library = api.Get_library_version().strip().splitlines()[0].split(",")[0]
        raise ConfigError(
            f"the launcher has started {n} ranks, but mpi4py finds {found}: it uses {library}, and the launcher is that of "
            "another MPI; take the mpirun of that library"
        )
    return MPI(api.COMM_WORLD, hang_timeout)


def crowded(communicator: Communicator, threads: int) -> str:
    """A warning where the ranks of a node have more threads than it has CPUs, otherwise ""."""
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(limits.cpus()))
    mine = socket.gethostname(), threads, own
    here = [(n, theirs) for host, n, theirs in communicator.gather(mine) if host == mine[0]]
    most, cpus = sum(n for n, _ in here), len(set().union(*(theirs for _, theirs in here)))
    if len(here) < 2 or most <= cpus:
        return ""
    return (
        f"{len(here)} ranks have {most} threads on {cpus} CPUs: GVAE_NUM_THREADS={max(1, cpus // len(here))} may be faster"
    )
