"""The builder: literals take the dtype they need, wrong calls say what is wrong, nodes land where they should."""

from __future__ import annotations

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import InvalidModel, TypeInferError, Unsupported
from anyir.ir.graph import Module, Value
from anyir.ir.loc import Loc
from anyir.ir.types import BOOL, F16, F32, F64, I8, I32, I64, U8, DType, TensorType
from anyir.ir.verify import verify


def start(dtype: DType = F32, shape: tuple = (2, 3)) -> tuple[Module, Builder, Value]:
    module = Module()
    graph = module.add_graph("main")
    return module, Builder(graph), graph.add_input(TensorType(dtype, shape), "x")


@pytest.mark.parametrize("dtype", [F16, F32, F64, I8, I32, I64, U8])
def test_numbers_take_the_dtype_of_the_other_operand(dtype: DType) -> None:
    _, b, x = start(dtype)
    y = b.add(x, 2)
    assert y.type is x.type and y.node.operands[1].type is TensorType(dtype, ())


def test_numbers_alone_are_i64_f32_or_bool() -> None:
    _, b, _ = start()
    assert [b.const(v).type for v in (1, 1.5, True, (1, 2), [])] == [
        TensorType(I64, ()), TensorType(F32, ()), TensorType(BOOL, ()), TensorType(I64, (2,)), TensorType(I64, (0,)),
    ]  # fmt: skip


def test_arrays_and_numpy_scalars_keep_their_dtype() -> None:
    _, b, _ = start()
    assert b.const(np.float64(0.1)).type is TensorType(F64, ()), "np.float64 is a float to isinstance"
    assert b.const(np.int8(1)).dtype is I8 and b.const(np.zeros(2, np.float16)).dtype is F16


@pytest.mark.parametrize(("dtype", "number"), [(I32, 1.5), (U8, 300), (U8, -1), (I8, 128), (BOOL, 2)])
def test_a_number_that_does_not_fit_is_refused(dtype: DType, number: float) -> None:
    _, b, x = start(dtype)
    with pytest.raises(InvalidModel, match=f"do not fit into {dtype}"):
        b.equal(x, number)


def test_several_results_come_as_a_tuple() -> None:
    _, b, x = start()
    values, indices = b.topk(x, (2,), axis=1)
    assert values.type is TensorType(F32, (2, 2)) and indices.dtype is I64


def test_absent_operands_at_the_end_are_left_out_but_not_before_a_variadic() -> None:
    module, b, x = start()
    assert len(b.clip(x, None, None).node.operands) == 1
    assert b.clip(x, None, 1.0).node.operands[1] is None
    body = module.new_region("body")
    body.add_input(TensorType(I64, ()))
    body.set_outputs([body.add_input(TensorType(BOOL, ()))])
    loop = b.call("loop", (), {"carried": 0}, [body])
    assert loop.operands == (None, None)
    b.graph.set_outputs([x])
    verify(module)


def test_wrong_calls_name_op_operands_and_place() -> None:
    _, b, x = start()
    b.at(Loc("torch", "layer1"))
    with pytest.raises(TypeInferError, match="dtypes f32 and i32; they must agree") as caught:
        b.add(x, np.zeros((2, 3), np.int32))
    assert "add(%x: f32[2, 3]" in str(caught.value) and "at torch:layer1" in str(caught.value)
    with pytest.raises(TypeInferError, match="takes 2 operands, got 1"):
        b.add(x)
    with pytest.raises(TypeInferError, match="no attribute 'axis'"):
        b.neg(x, axis=1)
    with pytest.raises(TypeInferError, match="needs the attribute axis"):
        b.concat(x, x)
    with pytest.raises(TypeInferError, match="expected one of"):
        b.gelu(x, approximate="maybe")
    with pytest.raises(TypeInferError, match="operand a of add is missing"):
        b.add(None, x)


def test_unknown_ops_name_near_ones() -> None:
    _, b, x = start()
    with pytest.raises(Unsupported, match="did you mean .*softmax"):
        b.softmx(x)


def test_keywords_have_an_underscore() -> None:
    _, b, x = start(BOOL)
    assert b.not_(x).node.name == "not" and b.and_(x, x).node.name == "and"


def test_places() -> None:
    _, b, x = start()
    first, last = b.neg(x).node, b.exp(x).node
    Builder(b.graph, before=first).abs(x)
    Builder(b.graph, after=first).sign(x)
    Builder(b.graph, after=last).floor(x)
    assert [n.name for n in b.graph.nodes()] == ["abs", "neg", "sign", "exp", "floor"]


def test_attributes_are_checked_defaulted_and_interned() -> None:
    _, b, x = start(F32, (1, 2, 5, 5))
    w = b.const(np.ones((2, 2, 3, 3), np.float32))
    one, two = b.conv(x, w, strides=[2, 2]), b.conv(x, w, strides=(np.int64(2), 2))
    assert one.node.attrs is two.node.attrs and one.node.attr("groups") == 1
    assert b.leaky_relu(x, alpha=0.0).node.attrs is not b.leaky_relu(x, alpha=-0.0).node.attrs
    assert b.cast(x, to=F16).node.attrs != b.cast(x, to=F64).node.attrs


def test_nans_in_attributes_keep_their_bits() -> None:
    quiet, other = (
        np.array(bits, np.uint64).view(np.float64).item() for bits in (0x7FF8000000000000, 0xFFF8000000000001)
    )
    _, b, x = start()
    one = b.call("opaque", (x,), {"domain": "d", "op_type": "o", "v": quiet})
    two = b.call("opaque", (x,), {"domain": "d", "op_type": "o", "v": other})
    assert one.attrs is not two.attrs
    assert np.float64(two.attr("v")).tobytes() == np.float64(other).tobytes()


def test_opaque_attributes_may_be_called_anything() -> None:
    _, b, x = start()
    odd = {"self": 1, "xs": (1.5,), "a b": "c", "regions": None, "": b"\0"}
    node = b.call("opaque", (x,), {"domain": "d", "op_type": "o", **odd})
    assert {name: node.attr(name) for name in odd} == odd


def test_types_are_inferred_with_symbols() -> None:
    n = sym("N")
    _, b, x = start(F32, (n, 4))
    assert b.concat(x, x, axis=0).type is TensorType(F32, (2 * n, 4))
    assert b.reshape(x, (-1,)).type is TensorType(F32, (4 * n,))
    assert b.reshape(x, b.concat(b.slice(b.shape(x), (0,), (1,)), (2, 2), axis=0)).type is TensorType(F32, (n, 2, 2))
