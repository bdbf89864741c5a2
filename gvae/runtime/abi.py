"""The private parts of Numba and llvmlite on which gvae relies: all of them are used here, and none elsewhere.

Documented, and used wherever needed, are `numba.njit`, `numba.types`, `numba.typeof`, `numba.extending` (whose intrinsics
get a `context` and a `builder`) and `llvmlite.ir`. The parts used here may change with any release. The tests have passed
with the releases of `SEEN`. With others no kernel is called by its address: everything runs in one thread, with a warning,
as it does if the pool's self-test fails (see gvae.runtime.pool).

    private part                                            used for                                      seen with
    ------------------------------------------------------  --------------------------------------------  ------------------
    numba.np.arrayobj.make_array; an array's fields data,   addresses of elements; arrays without          Numba 0.61 to 0.68
      shape, strides, meminfo, parent, and two more           reference counts; memory for packed ones
    numba.np.arrayobj.populate_array,                       an array (..., n) seen as one of vectors       Numba 0.61 to 0.68
      numba.core.imputils.impl_ret_borrowed,
      context.get_data_type, context.get_abi_sizeof
    numba.core.cgutils.alloca_once, unpack_tuple            memory on the stack; the parts of a tuple      Numba 0.61 to 0.68
    numba.core.callconv.RETCODE_OK, RETCODE_NONE;           calling a kernel by its address (threads):     Numba 0.61 to 0.68
      context.call_conv.get_function_type, whose first        status = kernel(result, error, *arguments)
      two parameters are where a result and an
      error go, a pointer each (of nothing, too);
      context.get_arg_packer
    Dispatcher.overloads, and of its values                 that address (threads)                         Numba 0.61 to 0.68
      library.get_pointer_to_function,
      fndesc.llvm_func_name, signature
    numba._dispatcher.compute_fingerprint                   distinguishing types of arguments in a         Numba 0.61 to 0.68
                                                              microsecond; numba.typeof replaces it
    llvmlite.binding.get_host_cpu_features                  the size of vector registers                llvmlite 0.44 to 0.50
    builder.function.attributes is a set                    an attribute with a value, which its own    llvmlite 0.44 to 0.50
                                                              `add` rejects: the preferred vector width
    a pointer's type contains the type it points to         accesses to memory, calls by address        llvmlite 0.44 to 0.50
    names of LLVM's masked loads and stores, which repeat   edges of matrices                           llvmlite 0.44 to 0.50
      the type the pointer points to

Only `pointer_to` makes types of pointers, and the type that a pointer points to is never read from it: loads, stores and
addresses get it as an argument. If pointers lose that part of their type, as LLVM's have, only functions here change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.np import arrayobj

SEEN = {"numba": ("0.61", "0.68"), "llvmlite": ("0.44", "0.50")}  # the first and the last release; setup.py requires them


def unseen() -> str | None:
    """A message that names Numba or llvmlite if its release is outside of `SEEN`; None if both are inside."""
    for name, version in (("numba", numba.__version__), ("llvmlite", llvmlite.__version__)):
        first, release, last = (
            tuple(map(int, re.findall(r"\d+", text)[:2])) for text in (SEEN[name][0], version, SEEN[name][1])
        )
        if not first <= release <= last:
            return f"{name} is {version}, seen were {SEEN[name][0]} to {SEEN[name][1]}"
    return None


def _types_of(arguments: tuple) -> tuple:
    return tuple(map(typeof, arguments))


fingerprint: Callable[[tuple], Any]  # a hashable key of the types of arguments
try:
    from numba._dispatcher import compute_fingerprint

    fingerprint = compute_fingerprint
except ImportError:
    fingerprint = _types_of

# ---- memory


def pointer_to(kind: ir.Type) -> ir.PointerType:
    """LLVM's type of a pointer to a `kind`."""
    return kind.as_pointer()


def load(builder: Any, pointer: Any, kind: ir.Type, align: int | None = None) -> Any:
    """Load a `kind`."""
    return builder.load(builder.bitcast(pointer, pointer_to(kind)), align=align, typ=kind)


def store(builder: Any, value: Any, pointer: Any, align: int | None = None) -> None:
    """Store a value."""
    builder.store(value, builder.bitcast(pointer, pointer_to(value.type)), align=align)


def load_atomic(builder: Any, pointer: Any, kind: ir.Type, order: str) -> Any:
    """`load` of an eight-byte number that other threads write."""
    return builder.load_atomic(builder.bitcast(pointer, pointer_to(kind)), order, 8, typ=kind)


def store_atomic(builder: Any, value: Any, pointer: Any, order: str) -> None:
    """`store` of an eight-byte number that other threads read."""
    builder.store_atomic(value, builder.bitcast(pointer, pointer_to(value.type)), order, 8)


def load_masked(builder: Any, pointer: Any, vector: ir.VectorType, mask: Any, align: int) -> Any:
    """`load` of the vector's masked elements, and zero for the others, whose memory is not accessed."""
    pointer = builder.bitcast(pointer, pointer_to(vector))
    function = ir.FunctionType(vector, [pointer.type, ir.IntType(32), mask.type, vector])
    masked = external(builder, _masked("load", vector), function)
    return builder.call(masked, [pointer, ir.IntType(32)(align), mask, ir.Constant(vector, None)])


def store_masked(builder: Any, value: Any, pointer: Any, mask: Any, align: int) -> None:
    """`store` of the masked elements."""
    pointer = builder.bitcast(pointer, pointer_to(value.type))
    function = ir.FunctionType(ir.VoidType(), [value.type, pointer.type, ir.IntType(32), mask.type])
    builder.call(external(builder, _masked("store", value.type), function), [value, pointer, ir.IntType(32)(align), mask])


def _masked(operation: str, vector: ir.VectorType) -> str:
    """LLVM's name of the function. If a pointer's type has no pointed-to type, LLVM itself drops that from the name."""
    name = f"v{vector.count}{vector.element.intrinsic_name}"
    return f"llvm.masked.{operation}.{name}.p0{name}"


def offset(builder: Any, pointer: Any, kind: ir.Type, index: Any) -> Any:
    """The address of the `kind` of a given index. With more indices, llvmlite would give it the type of the first."""
    return builder.gep(builder.bitcast(pointer, pointer_to(kind)), [index], source_etype=kind)


def on_stack(builder: Any, kind: ir.Type) -> Any:
    """The address of memory for a `kind` on the stack of the function being compiled; initialised with zeros."""
    return cgutils.alloca_once(builder, kind)


# ---- Numba's arrays and tuples


def start_of(context: Any, builder: Any, array_type: types.Array, array: Any) -> Any:
    """The address of an array's first element."""
    return arrayobj.make_array(array_type)(context, builder, array).data


def element(context: Any, builder: Any, array_type: types.Array, array: Any, i: Any) -> Any:
    """The address of the i-th element of a contiguous array."""
    kind = context.get_data_type(array_type.dtype)
    return offset(builder, start_of(context, builder, array_type, array), kind, i)


def uncounted(context: Any, builder: Any, array_type: types.Array, array: Any) -> Any:
    """The array without its reference count: the caller must keep it alive."""
    view = arrayobj.make_array(array_type)(context, builder, array)
    view.meminfo = ir.Constant(view.meminfo.type, None)
    view.parent = ir.Constant(view.parent.type, None)
    return view._getvalue()


def as_vectors(context: Any, builder: Any, array_type: types.Array, array: Any, view_type: types.Array) -> Any:
    """The array (..., n) seen as an array (...) of vectors of n numbers. It keeps the memory alive."""
    source, view = arrayobj.make_array(array_type)(context, builder, array), arrayobj.make_array(view_type)(context, builder)
    vector = context.get_data_type(view_type.dtype)
    arrayobj.populate_array(
        view,
        data=builder.bitcast(source.data, pointer_to(vector)),
        shape=parts(builder, source.shape)[:-1],
        strides=parts(builder, source.strides)[:-1],
        itemsize=context.get_constant(types.intp, context.get_abi_sizeof(vector)),
        meminfo=source.meminfo,
    )
    return impl_ret_borrowed(context, builder, view_type, view._getvalue())


def words(ndim: int | None) -> int:
    """The largest number of eight-byte words of an argument: an array of `ndim` axes, or a number (None)."""
    return 2 if ndim is None else 5 + 2 * ndim


def parts(builder: Any, group: Any) -> list[Any]:
    """The values in a tuple, or in another aggregate."""
    return list(cgutils.unpack_tuple(builder, group))


# ---- functions


def external(builder: Any, name: str, function: ir.FunctionType) -> Any:
    """A function of LLVM or of the C library, by its name."""
    return builder.module.globals.get(name) or ir.Function(builder.module, function, name)


def call_address(builder: Any, address: Any, function: ir.FunctionType, arguments: list[Any]) -> Any:
    """Call the function at an address, given as a number."""
    return builder.call(builder.inttoptr(address, pointer_to(function)), arguments)


def call_kernel(context: Any, builder: Any, address: Any, argument_types: tuple, arguments: list[Any]) -> Any:
    """Call the kernel at an address (see `compiled`). Returns whether it failed, which it does if memory is exhausted."""
    from numba.core.callconv import RETCODE_NONE, RETCODE_OK

    function = context.call_conv.get_function_type(types.none, argument_types)
    slots = [builder.bitcast(on_stack(builder, pointer_to(ir.IntType(8))), kind) for kind in function.args[:2]]
    words = context.get_arg_packer(argument_types).as_arguments(builder, arguments)
    status = call_address(builder, address, function, [*slots, *words])
    return builder.not_(builder.or_(*(builder.icmp_signed("==", status, code) for code in (RETCODE_OK, RETCODE_NONE))))


def compiled(kernel: Any, argument_types: tuple) -> tuple[int, types.Type]:
    """(address, type of the result) of a kernel's code for arguments of these types, compiled if necessary."""
    kernel.compile(argument_types)
    found = kernel.overloads[argument_types]
    return found.library.get_pointer_to_function(found.fndesc.llvm_func_name), found.signature.return_type


# ---- processors


def prefer_vectors(builder: Any, bits: int) -> None:
    """Make LLVM use vectors of this number of bits in the function being compiled."""
    set.add(builder.function.attributes, f'"prefer-vector-width"="{bits}"')


def has_feature(name: str) -> bool:
    """Whether this machine's processor has a feature, by LLVM's name, such as "avx512f"."""
    return bool(llvmlite.binding.get_host_cpu_features().get(name))
