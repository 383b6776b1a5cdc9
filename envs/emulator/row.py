"""One row of every array in a tuple of arrays.

What one cluster is made of is a tuple of arrays; many clusters are the same tuple with a leading axis.
Compiled code takes one of them out by ``row_of(many, number)``, whatever the tuple's fields are. The rows are
borrowed (``envs.emulator.borrow``): they must not outlive the arrays they lie in.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array


def _row_type(many: Any) -> Any:
    if isinstance(many, types.Array):
        return types.Array(many.dtype, many.ndim - 1, many.layout, not many.mutable, aligned=many.aligned)
    parts = [_row_type(each) for each in many.types]
    return types.BaseTuple.from_types(parts, many.instance_class)  # type: ignore[no-untyped-call]


def _row(context: Any, builder: Any, many: Any, row: Any, value: Any, number: Any) -> Any:
    if not isinstance(many, types.Array):
        parts = [
            _row(context, builder, *both, builder.extract_value(value, place), number)
            for place, both in enumerate(zip(many.types, row.types, strict=True))
        ]
        return context.make_tuple(builder, row, parts)
    array = context.make_array(many)(context, builder, value)
    shape = cgutils.unpack_tuple(builder, array.shape, many.ndim)  # type: ignore[no-untyped-call]
    strides = cgutils.unpack_tuple(builder, array.strides, many.ndim)  # type: ignore[no-untyped-call]
    offset = builder.mul(number, strides[0])
    data = cgutils.pointer_add(builder, array.data, offset, array.data.type)  # type: ignore[no-untyped-call]
    view = context.make_array(row)(context, builder)
    populate_array(  # type: ignore[no-untyped-call]
        view,
        data=data,
        shape=shape[1:],
        strides=strides[1:],
        itemsize=array.itemsize,
        meminfo=None,
    )
    return view._getvalue()


def _row_of(context: Any, many: Any, number: Any) -> Any:
    row = _row_type(many)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.cast(builder, arguments[1], number, types.intp)
        return _row(context, builder, many, row, arguments[0], place)

    return row(many, number), generate


row_of: Any = intrinsic(_row_of)
"""``row_of(many, number)``: a tuple (of tuples) of arrays without their first axis, at ``number`` of it."""
