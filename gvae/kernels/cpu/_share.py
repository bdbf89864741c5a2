"""Shares of a kernel's range, handed from thread to thread without the interpreter lock.

Numba compiles a kernel into a function of machine words, at an address. `share` copies a call's arguments to its stack and
tells each worker where they lie and what to call, does its own share, and waits for the others, so that the arrays
stay alive. A worker that spins (`serve`) begins a microsecond later. No thread needs the interpreter lock, which takes ten
times as long to change hands. `run` does so for one kernel after the other, whose arguments lie ready in memory.

A worker's numbers, by which it and its callers agree, are those of `_protocol`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.extending import intrinsic, register_jitable

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._protocol import (
    AWAY,
    CLAIMED,
    CODE,
    DONE,
    FAILED,
    HI,
    KERNEL,
    LO,
    PARKED,
    PARKS,
    PLACE,
    POSTED,
    SPINNING,
    STATE,
    WIDTH,
)
from gvae.kernels.cpu._wait import CAN_PARK, WORD, fence, look, park, pause, pointer, tell, wake
from gvae.runtime import abi

PARK = 500_000_000  # the most nanoseconds that a worker parks; a share that is posted wakes it

NO_TABLE, NOWHERE = np.zeros((0, WIDTH), np.int64), np.zeros(0, np.int64)

SHARE = ir.FunctionType(ir.IntType(32), [WORD, WORD, WORD, WORD])  # kernel, place of the arguments, lo, hi -> failed


@intrinsic
def claim(typingctx, numbers, i, x):
    """Compare-and-swap numbers[i] from x - 1 to x. Returns whether this thread has done so."""

    def codegen(context, builder, sig, args):
        before = builder.sub(args[2], WORD(1))
        pair = builder.cmpxchg(pointer(context, builder, sig, args), before, args[2], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(numbers, types.intp, types.int64), codegen


@intrinsic
def begin(typingctx, code, kernel, place, lo, hi):
    """Do a share by its CODE. Returns whether it failed, which happens if memory runs out."""

    def codegen(context, builder, sig, args):
        return abi.call_address(builder, args[0], SHARE, args[1:])

    return types.int32(*[types.int64] * 5), codegen


@intrinsic
def room(typingctx, arguments):
    """Where on this function's stack there is place for these arguments."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(abi.on_stack(builder, context.get_value_type(arguments)), WORD)

    return types.int64(arguments), codegen


@intrinsic
def pack(typingctx, arguments, place):
    """Put the arguments where there is place for them. Returns the CODE of shares of a kernel that takes them and lo, hi.

    Arrays go without their reference counts, as `_lanes.borrowed`: threads that count at one place wait for each other.
    """
    kinds = (*arguments, types.intp, types.intp)

    def codegen(context, builder, sig, args):
        values = [
            abi.uncounted(context, builder, kind, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(arguments, abi.parts(builder, args[0]), strict=True)
        ]
        packed = context.make_tuple(builder, arguments, values)
        words = sum(abi.words(kind.ndim if isinstance(kind, types.Array) else None) for kind in arguments)
        if context.get_abi_sizeof(packed.type) > 8 * words:
            raise RuntimeError(f"arguments take {context.get_abi_sizeof(packed.type)} bytes, expected at most {8 * words}")
        abi.store(builder, packed, builder.inttoptr(args[1], abi.pointer_to(packed.type)), align=8)
        code = ir.Function(builder.module, SHARE, builder.module.get_unique_name("share"))
        code.linkage = "internal"
        inner = ir.IRBuilder(code.append_basic_block("entry"))
        kernel, where, lo, hi = code.args
        place = inner.inttoptr(where, abi.pointer_to(packed.type))
        values = abi.parts(inner, abi.load(inner, place, packed.type, align=8))
        failed = abi.call_kernel(context, inner, kernel, kinds, [*values, lo, hi])
        inner.ret(inner.zext(failed, SHARE.return_type))
        return builder.ptrtoint(code, WORD)

    return types.int64(arguments, types.int64), codegen


@kernel
def rouse(numbers):
    """Wake the worker for what has just been posted, if it is parked."""
    if CAN_PARK:
        fence()
        if look(numbers, STATE) == PARKED:
            wake(numbers, POSTED)


@register_jitable(error_model="numpy")
def spread(table, crew, shares, address, code, place, n, step):
    """A kernel over all of [0, n), cut into `shares` at multiples of `step`, with workers that are rows of the table
    (W, WIDTH): the first of crew. Returns how many shares failed."""
    steps = -(-n // step)
    for i in range(1, shares):
        numbers = table[crew[i - 1]]
        tell(numbers, CLAIMED, numbers[POSTED])  # first: a worker that is late claims nothing from here on
        tell(numbers, CODE, code)
        numbers[KERNEL], numbers[PLACE], numbers[FAILED] = address, place, 0
        numbers[LO], numbers[HI] = i * steps // shares * step, n if i + 1 == shares else (i + 1) * steps // shares * step
        tell(numbers, POSTED, numbers[POSTED] + 1)
        rouse(numbers)
    failed = begin(code, address, place, 0, n if shares == 1 else steps // shares * step)
    for i in range(1, shares):
        numbers = table[crew[i - 1]]
        if claim(numbers, CLAIMED, numbers[POSTED]):
            failed += begin(code, address, place, numbers[LO], numbers[HI])
        else:
            while look(numbers, DONE) != numbers[POSTED]:
                pause()
            failed += numbers[FAILED]
    return failed


@kernel
def share(table, crew, address, arguments, n, step, memory):
    """kernel(*arguments, lo, hi) over all of [0, n), with all of crew: see `spread`. address: of the kernel. Returns what
    that does, and the code. If `memory` is not empty, it only packs the arguments there, for `run`. Both are in one function
    because each combination of argument types compiles its own, in a fifth of a second."""
    if len(memory) > 0:
        return 0, pack(arguments, memory.ctypes.data)
    place = room(arguments)
    code = pack(arguments, place)
    return spread(table, crew, len(crew) + 1, address, code, place, n, step), code


@kernel
def run(table, crew, launches):
    """One `spread` after the other, with as many of crew as each of launches (L, 6) is worth: rows of address, code, place,
    n, step, shares at most. Returns what all of them do."""
    failed = 0
    for i in range(len(launches)):
        address, code, place, n, step, most = launches[i]
        failed += spread(table, crew, min(most, len(crew) + 1), address, code, place, n, step)
    return failed


@kernel
def serve(numbers, posted, spins):
    """Report share `posted` as done, and do new shares until one is in Python. Returns the number of the last one done.
    After `spins` spins without a share the thread parks or, where it cannot, this returns."""
    tell(numbers, DONE, posted)
    tell(numbers, STATE, SPINNING)
    spun = 0
    while True:
        seen = look(numbers, POSTED)
        if seen != posted:
            if look(numbers, CODE) == 0:
                break
            posted, spun = seen, 0
            if claim(numbers, CLAIMED, posted):
                numbers[FAILED] = begin(numbers[CODE], numbers[KERNEL], numbers[PLACE], numbers[LO], numbers[HI])
            tell(numbers, DONE, posted)  # one that was taken back as well
        elif CAN_PARK and (spun >= spins or look(numbers, PARKS) > 0):
            tell(numbers, STATE, PARKED)
            fence()
            if look(numbers, POSTED) == posted:
                park(numbers, POSTED, posted & 0xFFFFFFFF, PARK)
            tell(numbers, STATE, SPINNING)
        elif spun >= spins:
            break
        else:
            pause()
            spun += 1
    tell(numbers, STATE, AWAY)
    return posted


_addresses: dict[tuple[Any, bytes], int] = {}


def address(function: Any, arguments: tuple) -> int:
    """Where a kernel's code for arguments of these types lies. TypeError if it returns something: `begin` has no place."""
    key = (function, abi.fingerprint(arguments))
    if key not in _addresses:
        place, result = abi.compiled(function, (*map(typeof, arguments), types.intp, types.intp))
        if result != types.none:
            raise TypeError(f"{function.__name__} returns {result}, expected nothing of a kernel")
        _addresses[key] = place
    return _addresses[key]


def packed(function: Any, arguments: tuple) -> tuple[int, int, np.ndarray]:
    """(address, code, memory) of a kernel for these arguments, which lie packed in the memory. As long as the caller keeps
    that, and their arrays, the kernel can be run for them. TypeError for what is neither an array nor a number."""
    words = 0
    for x in arguments:
        if not isinstance(x, (np.ndarray, np.generic, int, float, complex)):
            raise TypeError(f"{function.__name__}: an argument is {type(x).__name__}, expected an array or a number")
        words += abi.words(x.ndim if isinstance(x, np.ndarray) else None)
    memory, where = np.zeros(words, np.int64), address(function, arguments)
    _, code = share(NO_TABLE, NOWHERE, where, arguments, 0, 1, memory)
    return where, code, memory
