"""How one thread waits for another without the interpreter lock: it spins, reading a number that the other will write, and
does not ask the system.

To park and be woken takes 50 to 100 us on a virtual machine, longer than most kernels run; to read the number takes a tenth
of one. So threads spin, and park where a wait is long: see gvae.kernels.cpu._share.
"""

from __future__ import annotations

import platform
import sys

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gvae.kernels.cpu._jit import kernel
from gvae.runtime import abi

_PAUSE = {  # LLVM's names, and arguments, of the instruction that processors have for loops that wait
    "x86_64": ("llvm.x86.sse2.pause", ()),
    "AMD64": ("llvm.x86.sse2.pause", ()),
    "aarch64": ("llvm.aarch64.hint", (1,)),
    "arm64": ("llvm.aarch64.hint", (1,)),
}
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None  # of system calls
CAN_PARK = _FUTEX is not None
_WAIT, _WAKE = 128, 129  # futex's operations, among threads of one process
WORD = ir.IntType(64)


def pointer(context, builder, sig, args):
    """The address of numbers[i], the first two arguments of these functions."""
    return abi.element(context, builder, sig.args[0], args[0], args[1])


@intrinsic
def look(typingctx, numbers, i):
    """numbers[i], loaded with acquire semantics: what its writer had written before is visible from here on."""

    def codegen(context, builder, sig, args):
        return abi.load_atomic(builder, pointer(context, builder, sig, args), WORD, "acquire")

    return types.int64(numbers, types.intp), codegen


@intrinsic
def tell(typingctx, numbers, i, x):
    """numbers[i] <- x, stored with release semantics: earlier writes become visible first."""

    def codegen(context, builder, sig, args):
        abi.store_atomic(builder, args[2], pointer(context, builder, sig, args), "release")
        return context.get_dummy_value()

    return types.void(numbers, types.intp, types.int64), codegen


@intrinsic
def pause(typingctx):
    """The processor's pause instruction for spin loops, once per spin."""

    def codegen(context, builder, sig, args):
        if platform.machine() in _PAUSE:
            name, given = _PAUSE[platform.machine()]
            i32 = ir.IntType(32)
            function = ir.FunctionType(ir.VoidType(), [i32] * len(given))
            builder.call(abi.external(builder, name, function), [i32(x) for x in given])
        return context.get_dummy_value()

    return types.void(), codegen


def _futex(context, builder, sig, args, operation, x, nanoseconds):
    if not CAN_PARK:
        return context.get_dummy_value()  # callers ask for CAN_PARK first and do not come here, but are compiled
    time = abi.on_stack(builder, ir.ArrayType(WORD, 2))
    for i, part in enumerate((WORD(0), nanoseconds)):
        abi.store(builder, part, abi.offset(builder, time, WORD, WORD(i)))
    kind = ir.FunctionType(WORD, [WORD], var_arg=True)
    call = abi.external(builder, "syscall", kind)
    where = pointer(context, builder, sig, args)  # of its lower half, as numbers lie in memory
    builder.call(call, [WORD(_FUTEX), where, WORD(operation), x, time, WORD(0), WORD(0)])
    return context.get_dummy_value()


@intrinsic
def park(typingctx, numbers, i, x, nanoseconds):
    """Sleep if numbers[i] is x, until `wake`, for at most `nanoseconds`. Wake-ups may be spurious."""

    def codegen(context, builder, sig, args):
        return _futex(context, builder, sig, args, _WAIT, args[2], args[3])

    return types.void(numbers, types.intp, types.int64, types.int64), codegen


@intrinsic
def wake(typingctx, numbers, i):
    """Wake a thread that is parked there."""

    def codegen(context, builder, sig, args):
        one = WORD(1)
        return _futex(context, builder, sig, args, _WAKE, one, one)

    return types.void(numbers, types.intp), codegen


@intrinsic
def fence(typingctx):
    """A full memory fence: this thread's earlier writes become visible before its later reads."""

    def codegen(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@kernel
def wait(numbers, i, x, spins):
    """Spin as long as numbers[i] is x, at most `spins` times. Returns what it is then."""
    for _ in range(spins):
        if look(numbers, i) != x:
            break
        pause()
    return look(numbers, i)


@kernel
def tell_and_wait(numbers, i, x, j, y, spins, rest):
    """numbers[i] <- x, then `wait` as long as numbers[j] is y, and `rest` pauses more once it is not."""
    tell(numbers, i, x)
    seen = wait(numbers, j, y, spins)
    if seen != y:
        for _ in range(rest):
            pause()
    return seen
