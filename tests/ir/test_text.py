"""IR text: `parse(print(m)) == m`, on generated modules and in every corner of the syntax; weight files; hostile text."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.dims import sym
from anyir.ir.errors import AnyIRError, InvalidModel
from anyir.ir.graph import Module
from anyir.ir.loc import Loc
from anyir.ir.parser import parse_file, parse_module
from anyir.ir.printer import Printer, print_module
from anyir.ir.signature import Slot
from anyir.ir.tensor import ArrayTensor, LazyTensor, MappedTensor, PackedTensor, SplatTensor, as_tensor
from anyir.ir.textfile import write_text
from anyir.ir.types import (
    ALL,
    BOOL,
    F16,
    F32,
    F64,
    I4,
    I64,
    STRING,
    DType,
    NoneType,
    OptionalType,
    SequenceType,
    TensorType,
)  # fmt: skip
from anyir.ir.verify import verify
from anyir.tests.support.graphs import random_elements, random_module
from anyir.tests.support.text import assert_equal_modules, module

DTYPES = sorted(ALL, key=lambda t: t.name)
BATCH = 100


def round_trip(made: Module) -> Module:
    """Print, parse, compare both ways, and print the same again."""
    tensors = {weight.tensor.digest(): weight.tensor for weight in made.weights}
    text = print_module(made)
    back = parse_module(text, weights=tensors)
    assert_equal_modules(made, back)
    verify(back, allow_channels_last=True)
    assert [n.loc for n in back.all_nodes()] == [n.loc for n in made.all_nodes()]
    assert print_module(parse_module(print_module(back), weights=tensors)) == print_module(back)
    return back


def graph() -> tuple[Module, Builder]:
    made = Module()
    return made, Builder(made.add_graph("main"))


# ---------------------------------------------------------------------------------------------- generated modules


@pytest.mark.parametrize("first", range(0, 1000, BATCH))
def test_a_thousand_generated_modules(first: int) -> None:
    for seed in range(first, first + BATCH):
        round_trip(random_module(seed).module)


def test_through_files(tmp_path: Path) -> None:
    for seed in range(25):
        made = random_module(seed).module
        write_text(made, tmp_path / "m.anyir")
        assert_equal_modules(made, parse_file(tmp_path / "m.anyir"))


# -------------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3), (7, 11)])
def test_constants_of_every_dtype_keep_their_bits(dtype: DType, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape))
    for role in ("const", "param"):
        made, b = graph()
        value = made.add_weight("w", as_tensor(random_elements(dtype, shape, rng), dtype), role)
        b.graph.set_outputs([b.identity(value)])
        (back,) = round_trip(made).main.first.operands
        assert back.weight.tensor.digest() == value.weight.tensor.digest()
        if dtype is not STRING:
            assert back.array().tobytes() == value.array().tobytes()
        else:
            assert back.array().tolist() == value.array().tolist()


@pytest.mark.parametrize(
    "bits", [0x7F800001, 0x7FC00000, 0xFFC12345, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x80000001]
)
def test_payloads_signs_and_subnormals(bits: int) -> None:
    array = np.array([bits, 0], np.uint32).view(np.float32)
    for data in (array, array[0], array.view(np.complex64)):
        made, b = graph()
        b.graph.set_outputs([b.identity(b.const(np.asarray(data)))])
        assert round_trip(made).main.first.operands[0].array().tobytes() == np.asarray(data).tobytes()


def test_extreme_integers() -> None:
    made, b = graph()
    outputs = []
    for dtype in (d for d in DTYPES if d.is_int):
        low = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
        array = np.array([low, low + (1 << dtype.bits) - 1], object).astype(
            np.uint64 if dtype.bits == 64 and low == 0 else np.int64
        )
        outputs.append(b.identity(b.const(as_tensor(array, dtype))))
    b.graph.set_outputs(outputs)
    round_trip(made)


def test_decimals_are_the_shortest_that_read_back() -> None:
    text = print_module(module("(%x: f32[]) { const %c = [0.1, 1.0, 1e30, 3.0e-45, 16777217.0] : f32[5] "
                               "%y = identity(%c) : f32[5] return(%y) }"))  # fmt: skip
    assert "[0.1, 1.0, 1e+30, 3e-45, 1.6777216e+07]" in text


def test_tensors_of_every_kind() -> None:
    made, b = graph()
    tensors = [
        SplatTensor(3, F16, (40, 40)),
        PackedTensor.pack(np.arange(-8, 8).astype(I4.numpy)),
        LazyTensor("mul", (ArrayTensor(np.arange(30, dtype=np.float32)), SplatTensor(2, F32, (30,)))),
        SplatTensor(-0.0, F64, (2,)),
    ]
    b.graph.set_outputs([b.identity(made.add_weight(f"t{i}", t)) for i, t in enumerate(tensors)])
    round_trip(made)


def test_small_tensors_stand_in_the_text_large_ones_by_digest() -> None:
    made, b = graph()
    values = [made.add_weight(f"w{n}", np.zeros(n, np.float32), "param") for n in (16, 17)]
    b.graph.set_outputs([b.identity(v) for v in values])
    text = print_module(made)
    assert "f32[16] = [0.0, " in text and f'f32[17] = data("{values[1].weight.tensor.digest().hex()}")' in text
    with pytest.raises(InvalidModel, match="not at hand"):
        parse_module(text)


def test_elided_text_is_for_reading() -> None:
    made = module("(%x: f32[8]) { const %c = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[8] "
                  "%y = add(%x, %c) : f32[8] return(%y) }")  # fmt: skip
    assert 'data("' in Printer(elide=4).module(made)
    assert "loc(" not in Printer(locations=False).module(random_module(1).module)


# ------------------------------------------------------------------------------------------------ syntax, corners


@pytest.mark.parametrize("name", ["a b", "é", "N-1", "]", '"q"', "a,b", "x\ny", "\U0001f600", "min", "_", "N // 2"])
def test_odd_symbols(name: str) -> None:
    made, b = graph()
    x = b.graph.add_input(TensorType(F32, (sym(name), 2 * sym(name) + 1, (sym(name) + 3) // 2)))
    made.facts.add_range(name, 2, 9, "guard")
    made.facts.add_equal(sym(name), 3 * sym("K"), "declared")
    b.graph.set_outputs([b.neg(x)])
    assert round_trip(made).main.inputs[0].type is x.type


@pytest.mark.parametrize(
    "text", ["N^2 + 1", "N*M", "max(N, 2)", "min(N, M, 3)", "N % 4", "-(-N // 2)", "(N + 1)*(M + 1)"]
)
def test_symbolic_dims(text: str) -> None:
    made = module(f"(%x: f32[{text}, 3]) {{ %y = relu(%x) : f32[{text}, 3] return(%y) }}")
    assert made.main.outputs[0].type is made.main.inputs[0].type
    round_trip(made)


ATTRIBUTES = (
    None, True, False, 0, -1, 2**62, 0.0, -0.0, 1.0, 0.1, 1e22, 1e-320, float("inf"), float("nan"), "", 'a "b"\\\n\t\r\0',
    "\u202e\ud800", "none", b"", b"\x00\xff", (), (1, (2.5, ("x", None))), F32, I64, TensorType(F32, (2, sym("N"))),
    SequenceType(TensorType(F32, None)), OptionalType(TensorType()), NoneType(),
)  # fmt: skip


@pytest.mark.parametrize("value", ATTRIBUTES, ids=[f"{i}" for i in range(len(ATTRIBUTES))])
def test_attributes_of_every_type(value: object) -> None:
    made, b = graph()
    x = b.graph.add_input(TensorType(F32, (2,)))
    node = b.call(
        "opaque", (x, None, x), {"domain": "d", "op_type": "t", "types": (x.type,), "v": value, "w": (value, value)}
    )
    b.graph.set_outputs(node.results)
    back = round_trip(made).main.first
    assert type(back.attr("v")) is type(value) and repr(back.attr("v")) == repr(value)


def test_bits_of_nan_attributes() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0x7FF0DEADBEEF0001))[0]
    made, b = graph()
    node = b.call("opaque", (), {"domain": "d", "op_type": "t", "types": (TensorType(F32, ()),), "v": odd})
    b.graph.set_outputs(node.results)
    assert struct.pack("<d", round_trip(made).main.first.attr("v")) == struct.pack("<d", odd)


def test_tensors_in_attributes() -> None:
    made, b = graph()
    for dtype in DTYPES:
        tensor = as_tensor(random_elements(dtype, (2, 2), np.random.default_rng(0)), dtype)
        b.call("opaque", (), {"domain": "d", "op_type": "t", "t": tensor})
    round_trip(made)


@pytest.mark.parametrize(
    "name", ["self", "xs", "regions", "a b", "", "é", '"', "none", "loc", "return", "0", "a.b", "$x", "a-b"]
)
def test_odd_attribute_names(name: str) -> None:
    made, b = graph()
    b.call("opaque", (), {"domain": "d", "op_type": "t", name: 1})
    assert round_trip(made).main.first.attr(name) == 1


@pytest.mark.parametrize(
    "hint", ["", "0", "7", "a b", "é", "%", "none", "return", "const", "x" * 200, "a\nb", "_", ".", "a."]
)
def test_odd_hints_never_clash(hint: str) -> None:
    made, b = graph()
    x = b.graph.add_input(TensorType(F32, (2,)), hint)
    for _ in range(4):
        x = b.neg(x)
        x.hint = hint
    y = b.add(x, b.graph.inputs[0])
    y.hint = f"{hint}_1"
    b.graph.set_outputs([y])
    round_trip(made)


def test_odd_names_everywhere() -> None:
    made = Module('a "module"\n')
    first, second = made.add_graph("a graph"), made.add_graph("7é\n")
    made.metadata = {"": "", "user.é": 'x"\\\n'}
    for number, one in enumerate((first, second)):
        x = one.add_input(TensorType(F32, (2,)))
        w = made.add_weight('w "odd"\n' if number else "", np.ones(2, np.float32), "param")
        w.weight.aliases, w.weight.origin = ("", "é"), "from a\nb"
        b = Builder(one, loc=Loc("torch", 'scope "x"\n', file="a b.py", line=12, tag="pass"))
        one.set_outputs([b.add(x, w), x])
        slots = [Slot("in é\n", ("a", 0), (0.5, 3), "nhwc")]
        made.add_signature(f"key {number}\n", one, slots, [Slot(""), Slot("o", (1,))])
    made.signatures["key 1\n"].state = [(1, 0)]
    back = round_trip(made)
    assert back.metadata == made.metadata and back.name == made.name
    assert [w.aliases for w in back.weights] == [w.aliases for w in made.weights]
    assert back.signatures["key 1\n"].state == [(1, 0)]


def test_locations() -> None:
    made, b = graph()
    x = b.graph.add_input(TensorType(F32, (2,)))
    for loc in (
        Loc("onnx", "node"), Loc("", "only scope"), Loc(tag="only tag"), Loc("keras", "a/b", file="f.py", line=3, tag="cse"),
        Loc.fuse([Loc("torch", "a"), Loc("torch", "b", file="é.py", line=1)], "fold"),
        Loc.fuse([Loc("torch", str(i)) for i in range(20)]),
    ):  # fmt: skip
        x = b.at(loc).neg(x)
    b.graph.set_outputs([x])
    assert [n.loc for n in round_trip(made).main.nodes()] == [n.loc for n in made.main.nodes()]


def test_fused_locations_are_distinct_bare_and_few() -> None:
    tagged = Loc("torch", "a", tag="fold")
    fused = Loc.fuse([tagged, Loc("torch", "a"), Loc("torch", "b"), Loc(tag="cse")], "fuse")
    assert fused.fused == (Loc("torch", "a"), Loc("torch", "b")) and fused.tag == "fuse"
    assert Loc.fuse([tagged, Loc("torch", "a")]) is tagged
    assert len(Loc.fuse([Loc("torch", str(i)) for i in range(20)]).fused) == 8


def test_regions_see_constants_of_outer_bodies_and_nothing_else() -> None:
    text = """(%c: bool[], %x: f32[2]) {
      const %one = [1.0, 1.0] : f32[2]
      %y = if(%c, %x) : f32[2] {
        then(%t: f32[2]) { %u = add(%t, %one) : f32[2] return(%u) }
        else(%e: f32[2]) { return(%SEEN) }
      }
      return(%y)
    }"""
    round_trip(module(text.replace("SEEN", "e")))
    round_trip(module(text.replace("SEEN", "one")))
    with pytest.raises(InvalidModel, match="%x is not defined here"):
        module(text.replace("SEEN", "x"))


def test_several_graphs_share_weights() -> None:
    made = Module()
    w = made.add_weight("shared", np.ones((2, 2), np.float32), "param")
    for name in ("encode", "decode"):
        g = made.add_graph(name)
        g.set_outputs([Builder(g).matmul(g.add_input(TensorType(F32, (sym("N"), 2))), w)])
        made.add_signature(name, g, ["x"], ["y"])
    back = round_trip(made)
    assert len(back.weights) == 1 and len({n.operands[1] for n in back.all_nodes()}) == 1


def test_comments_and_layout_do_not_matter() -> None:
    a = module("(%x: f32[2]) { %y = leaky_relu(%x) {alpha = 0.5} : f32[2] return(%y) }")
    b = module("""# a comment
      graph @main ( %x : f32 [ 2 ] ) { # another
      %y=leaky_relu(%x){alpha=0.5,}:f32[2]# no line end
      return ( %y , ) }""")
    assert_equal_modules(a, b)


def test_channels_last_and_optional_operands() -> None:
    round_trip(module("(%x: f32[2]) { const %c = 1.0 : f32[] %y = clip(%x, none, %c) : f32[2] return(%y) }"))


# ------------------------------------------------------------------------------------------------------ equality


@pytest.mark.parametrize(
    "other",
    [
        "(%x: f32[2]) { const %c = 2.0 : f32[] %y = add(%x, %c) : f32[2] return(%y) }",
        "(%x: f32[2]) { const %c = 1.0 : f32[] %y = mul(%x, %c) : f32[2] return(%y) }",
        "(%x: f32[2]) { const %c = 1.0 : f32[] %y = add(%c, %x) : f32[2] return(%y) }",
        "(%x: f32[2]) { const %c = 1.0 : f32[] %y = add(%x, %c) : f32[2] return(%x) }",
        "(%x: f32[2]) { const %c = 1.0 : f32[] %y = add(%x, %c) : f32[2] return(%y, %y) }",
        "(%x: f32[2]) { const %c = 1.0 : f32[] %y = add(%x, %c) : f32[2] %z = neg(%y) : f32[2] return(%y) }",
        "(%x: f32[3]) { const %c = 1.0 : f32[] %y = add(%x, %c) : f32[3] return(%y) }",
        "(%x: f32[2]) { const %c = [1.0] : f32[1] %y = add(%x, %c) : f32[2] return(%y) }",
    ],
)
def test_what_differs_is_not_equal(other: str) -> None:
    one = module("(%x: f32[2]) { const %c = 1.0 : f32[] %y = add(%x, %c) : f32[2] return(%y) }")
    assert one != module(other) and module(other) != one


def test_hints_and_locations_are_not_compared_but_signatures_and_facts_are() -> None:
    text = "(%x: f32[2]) { %y = neg(%x) : f32[2] return(%y) }"
    one, two = module(text), module(text)
    two.main.first.result.hint, two.main.first.loc, two.metadata["a"] = "other", Loc("a", "b"), "b"
    assert_equal_modules(one, two)
    two.facts.add_range("N", 1, 2, "guard")
    assert one != two
    two = module(text)
    two.signature.outputs[0] = Slot("other")
    assert one != two


def test_unnamed_constants_are_equal_by_contents_however_they_are_stored() -> None:
    one, b = graph()
    x = b.graph.add_input(TensorType(F32, (2,)))
    b.graph.set_outputs([b.add(b.add(x, b.const(1.0)), b.const(1.0))])
    two, b = graph()
    x = b.graph.add_input(TensorType(F32, (2,)))
    b.graph.set_outputs([b.add(b.add(x, two.literal(np.float32(1))), two.add_weight("b", np.float32(1), "const"))])
    assert_equal_modules(one, two)


# -------------------------------------------------------------------------------------------------- weight files


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Module, Path]:
    made, b = graph()
    arrays = [np.arange(20, dtype=np.float32), np.arange(20, dtype=np.float32), np.arange(33, dtype=np.int8)]
    values = [made.add_weight(f"w{i}", a, "param") for i, a in enumerate(arrays)]
    values.append(made.add_weight("i4", PackedTensor.pack(np.zeros(21, I4.numpy)), "param"))
    b.graph.set_outputs([b.identity(v) for v in values])
    write_text(made, tmp_path / "m.anyir")
    return made, tmp_path / "m.anyir"


def test_weight_file_round_trip(stored: tuple[Module, Path]) -> None:
    made, path = stored
    back = parse_file(path)
    assert_equal_modules(made, back)
    assert all(isinstance(w.tensor, MappedTensor) for w in back.weights)
    assert all(w.tensor.offset % 64 == 0 for w in back.weights)
    assert back.weights["w0"].tensor.offset == back.weights["w1"].tensor.offset, "equal bytes are stored once"
    data = path.with_suffix(".weights").read_bytes()
    assert data[:8] == b"ANYIRWT1" and struct.unpack("<Q", data[8:16])[0] == len(data)


def test_writing_twice_gives_the_same_bytes(stored: tuple[Module, Path], tmp_path: Path) -> None:
    made, path = stored
    (tmp_path / "again").mkdir()
    write_text(made, tmp_path / "again" / "m.anyir")
    for name in ("m.anyir", "m.weights"):
        assert (tmp_path / "again" / name).read_bytes() == (path.parent / name).read_bytes()


def test_every_prefix_of_a_weight_file_is_refused(stored: tuple[Module, Path]) -> None:
    _, path = stored
    side = path.with_suffix(".weights")
    data = side.read_bytes()
    for length in range(len(data)):
        side.write_bytes(data[:length])
        with pytest.raises(AnyIRError):
            parse_file(path)


def test_every_flipped_bit_of_a_weight_file_is_noticed_or_in_the_padding(stored: tuple[Module, Path]) -> None:
    made, path = stored
    side = path.with_suffix(".weights")
    data = side.read_bytes()
    covered = set(range(16))
    for weight in parse_file(path).weights:
        covered |= set(range(weight.tensor.offset, weight.tensor.offset + weight.tensor.length))
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        side.write_bytes(changed)
        if at in covered and not _spare_bits(at, made):
            with pytest.raises(InvalidModel):
                parse_file(path)
        else:
            assert_equal_modules(made, parse_file(path))


def _spare_bits(at: int, made: Module) -> bool:
    """The unused half of the last byte of a 4-bit tensor does not count."""
    return at == len_of_last(made) and bool(1 << (at % 8) & 0xF0)


def len_of_last(made: Module) -> int:
    """The offset of the 4-bit tensor's last byte: three 64-byte-aligned stretches come before it."""
    return 64 + 128 + 64 + 10


def test_every_prefix_of_the_text_is_refused(stored: tuple[Module, Path]) -> None:
    made, path = stored
    made.add_signature("s", made.main, [], [f"o{i}" for i in range(4)])
    write_text(made, path)
    text = path.read_bytes()
    whole = 0
    for length in range(0, len(text), 7):
        path.write_bytes(text[:length])
        try:
            back = parse_file(path)
        except AnyIRError:
            continue
        whole += 1
        assert not back.signatures, "what reads is text that ends between two sections"
    assert whole <= 3


def test_the_weight_file_must_lie_beside_the_text(stored: tuple[Module, Path]) -> None:
    _, path = stored
    text = path.read_text()
    for name in ("../m.weights", "/etc/passwd", "sub/../../m.weights", "none.weights", ""):
        path.write_text(text.replace('"m.weights"', f'"{name}"'))
        with pytest.raises(AnyIRError):
            parse_file(path)


def test_a_link_instead_of_a_weight_file_is_refused(stored: tuple[Module, Path], tmp_path: Path) -> None:
    _, path = stored
    side = path.with_suffix(".weights")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    os.rename(side, outside)
    side.symlink_to(outside)
    try:
        with pytest.raises(AnyIRError):
            parse_file(path)
    finally:
        outside.unlink()


def test_writing_over_a_mapped_file_is_refused(stored: tuple[Module, Path]) -> None:
    _, path = stored
    back, before = parse_file(path), path.with_suffix(".weights").read_bytes()
    with pytest.raises(AnyIRError):
        write_text(back, path)
    assert path.with_suffix(".weights").read_bytes() == before


def test_offsets_outside_the_file_are_refused(stored: tuple[Module, Path]) -> None:
    _, path = stored
    text = path.read_text()
    for place in ("64, 81", "18446744073709551615, 80", "-64, 80", "999999, 80", "64, 80000000000"):
        path.write_text(text.replace("data(64, 80,", f"data({place},"))
        with pytest.raises(InvalidModel, match=r"m\.anyir:\d+:\d+"):
            parse_file(path)


# ------------------------------------------------------------------------------------------------- hostile text


@pytest.mark.parametrize("seed", range(12))
def test_mutated_text_reads_or_gives_one_clear_error(seed: int) -> None:
    """Nothing but our errors may come out of the parser, and what it accepts must be valid and print again."""
    rng = random.Random(seed)
    made = random_module(seed).module
    tensors = {w.tensor.digest(): w.tensor for w in made.weights}
    text = print_module(made)
    pieces = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        '"',
        "%x",
        "none",
        "true",
        "-1",
        "1e999",
        "0x",
        "f32[",
        "loc(",
        "\n",
        "#",
        "é",
    ]
    for _ in range(150):
        at, end = sorted(rng.randrange(len(text)) for _ in range(2))
        cut = min(end, at + rng.choice((0, 1, 3, 12)))
        mutated = text[:at] + rng.choice((*pieces, text[at:end][:40])) + text[cut:]
        try:
            back = parse_module(mutated, weights=tensors)
        except AnyIRError as error:
            assert error.exit_code == 3, f"{type(error).__name__}: {error}"
            continue
        print_module(back)


def test_deep_nesting_is_refused() -> None:
    for text in ("type(" + "seq<" * 500 + "f32[]", "[" * 500):
        with pytest.raises(AnyIRError, match="nested more than"):
            module(f'() {{ %y = opaque() {{domain = "d", op_type = "t", v = {text}}} : f32[] return() }}')


def test_blank_runs_cost_no_time() -> None:
    with pytest.raises(InvalidModel, match="unexpected character"):
        module("(%x: f32[2]) {" + " " * 20000 + "\n" * 20000 + "!")


@pytest.mark.parametrize("piece", ["  loc(", '  loc(by "', " : f32[2]", "%x, ", '"\\u{0}', "{", "(("])
def test_long_lines_cost_linear_time(piece: str) -> None:
    """Nothing in one line of a megabyte may be looked at again and again."""
    text = f"(%x: f32[2]) {{\n  %y = neg(%x) : f32[2]{piece * (1_000_000 // len(piece))}\n return(%y) }}"
    began = time.process_time()
    with pytest.raises(AnyIRError):
        module(text)
    assert time.process_time() - began < 5


def test_many_regions_do_not_copy_the_constants_around_them() -> None:
    constants = "\n".join(f"const %c{i} = {i}.0 : f32[]" for i in range(3000))
    region = "{ then(%t: f32[2]) { %u = mul(%t, %c7) : f32[2] return(%u) } else(%e: f32[2]) { return(%e) } }"
    branches = "\n".join(f"%y{i} = if(%c, %x) : f32[2] {region}" for i in range(1500))
    began = time.process_time()
    made = module(f"(%c: bool[], %x: f32[2]) {{ {constants}\n{branches}\n return(%y0) }}")
    assert time.process_time() - began < 10 and len(made.main) == 1500


def test_a_bool_is_true_or_false() -> None:
    with pytest.raises(InvalidModel, match="expected true or false"):
        module("() { const %c = [maybe] : bool[1] return(%c) }")
    assert module("() { const %c = [true, false] : bool[2] return(%c) }").main.outputs[0].array().tolist() == [
        True,
        False,
    ]
    assert BOOL.name == "bool"
