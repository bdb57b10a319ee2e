"""`where` expressions: what they take, what they refuse and where, and the names of layers."""

from __future__ import annotations

import itertools
from pathlib import Path

import anyir
import numpy as np
import pytest
from anyir.ir.builder import Builder
from anyir.ir.errors import UsageError
from anyir.ir.graph import Module
from anyir.ir.loc import Loc
from anyir.ir.types import F32, I8, TensorType
from anyir.passes.select import DEPTH_LIMIT, KEYS, check_names, layer_name, select, selector, weight_of
from anyir.tests.support.small_models import cnn


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return anyir.load(cnn(tmp_path / "net.onnx"))


def taken(module: Module, where: str) -> list[str]:
    wanted = selector(where)
    return [node.name for node in module.all_nodes() if wanted(node)]


@pytest.mark.parametrize(
    ("where", "ops"),
    [
        ("op=conv", ["conv"]),
        ("op=Conv", ["conv"]),
        ("op=BatchNormalization | op=GlobalAveragePool", None),
        ('name="kernel"', ["conv"]),
        ("name!=kernel & op=conv", []),
        ("weight=bias", ["conv"]),
        ("weight~'^(head|offset)$'", ["gemm"]),
        ("scope=stem", ["conv"]),
        ("scope ~ 'st.m' | scope~dense", ["conv", "gemm"]),
        ("!(op!=conv) & dtype=f32", ["conv"]),
        ("op=conv | op=gemm & name=nothing", ["conv"]),
        ("(op=conv | op=gemm) & name=nothing", []),
        ("!op=conv & !op=gemm & weight~.", ["batch_norm"]),
    ],
)
def test_what_an_expression_takes(module: Module, where: str, ops: list[str] | None) -> None:
    if ops is None:
        with pytest.raises(UsageError, match=r"there is no op 'BatchNormalization'") as error:
            selector(where)
        assert error.value.code == "R012" and "column 4" in error.value.message
    else:
        assert taken(module, where) == ops


def test_an_empty_expression_takes_every_node(module: Module) -> None:
    assert len(taken(module, "  ")) == len(list(module.all_nodes())) > 5


def test_precedence_is_that_of_a_truth_table(module: Module) -> None:
    """Every mix of !, & and | over three terms agrees with Python's own not, and, or."""
    terms = {"a": "op=conv", "b": "weight~'^(kernel|head)$'", "c": "scope~'^(stem|norm)$'"}
    facts = {key: selector(text) for key, text in terms.items()}
    for first, second, flips in itertools.product("&|", "&|", itertools.product(("", "!"), repeat=3)):
        shape = "{0}a {3} {1}b {4} {2}c".format(*flips, first, second)
        text = "".join(terms.get(letter, letter) for letter in shape)
        python = shape.replace("!", " not ").replace("&", " and ").replace("|", " or ")
        wanted = selector(text)
        for node in module.all_nodes():
            names = {key: fact(node) for key, fact in facts.items()}
            assert wanted(node) == eval(python, {}, names), text


@pytest.mark.parametrize(
    ("where", "what", "column"),
    [
        ("opp=conv", "expected a key, found 'opp'", 1),
        ("op=conv &", "expected a key, found 'the end'", 10),
        ("op conv", "expected =, != or ~, found 'conv'", 4),
        ("op=", "expected what op is compared with", 4),
        ("op=conv name=x", "unexpected 'name'", 9),
        ("(op=conv", "expected ')', found 'the end'", 9),
        ("name~'['", "not a regular expression", 6),
        ("name='x", "a quote is not closed: 'x", 6),
        ("op=cov", "there is no op 'cov'", 4),
        ("!" * (DEPTH_LIMIT + 2) + "op=conv", "nested too deeply", DEPTH_LIMIT + 2),
    ],
)
def test_mistakes_are_named_with_their_column(where: str, what: str, column: int) -> None:
    with pytest.raises(UsageError) as error:
        selector(where)
    assert error.value.code == "R012"
    assert what in error.value.message
    first, _, caret = error.value.message.split("\n")
    assert f"at column {column} of where" in first
    assert caret == "  " + " " * (column - 1) + "^"


def test_near_matches_of_keys_and_ops() -> None:
    with pytest.raises(UsageError, match="did you mean weight"):
        selector("weigth=a")
    with pytest.raises(UsageError, match="did you mean conv_transpose"):
        selector("op=conv_transpos")


def test_an_endless_expression_is_refused() -> None:
    with pytest.raises(UsageError, match="characters"):
        selector("op=conv | " * 1000 + "op=conv")


def test_names_that_no_layer_has_are_listed_with_near_ones(module: Module) -> None:
    with pytest.raises(UsageError) as error:
        check_names(module, ["kernle", "head", "elsewhere"])
    assert error.value.code == "R022"
    assert "'kernle' (near: kernel)" in error.value.message and "'elsewhere'" in error.value.message
    assert "'head'" not in error.value.message
    check_names(module, ["kernel", "head"])
    with pytest.raises(UsageError, match=r"name=heda \(near: head"):
        select(module, "name=heda")
    assert [node.name for node in select(module, "name=head")] == ["gemm"]
    convs = list(module.all_nodes("conv"))
    with pytest.raises(UsageError, match="fits no layer"):
        select(module, "name=head", convs)


def test_a_layer_is_called_by_its_weight_through_dequantize_and_transpose() -> None:
    module = Module()
    graph = module.add_graph("main")
    x = graph.add_input(TensorType(F32, (1, 3)), "x")
    b = Builder(graph)
    weight = module.add_weight("fc.weight", np.ones((4, 3), np.int8), "param")
    real = b.dequantize(b.transpose(weight, perm=(1, 0)), np.float32(0.5), to=F32)
    product = b.matmul(x, real)
    offset = b.add(product, module.add_weight("fc.bias", np.ones(4, np.float32), "param"))
    plain = b.relu(offset)
    plain.node.loc = Loc("torch", "block.act")
    bare = b.tanh(plain)
    graph.set_outputs([bare])
    module.add_signature("main", graph, ["x"], ["y"])
    assert weight.dtype is I8
    assert layer_name(product.node) == "fc.weight" and weight_of(product.node) is weight
    assert layer_name(offset.node) == "fc.bias"
    assert layer_name(plain.node) == "block.act"
    assert layer_name(bare.node) == "tanh" and weight_of(bare.node) is None
    bare.hint = "out"
    assert layer_name(bare.node) == "out"


def test_every_key_is_in_the_docs() -> None:
    text = (Path(anyir.__file__).parent / "docs" / "compress.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in text for key in KEYS)
