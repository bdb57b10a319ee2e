"""What the parser says about wrong text: line, column, caret, a near match. The messages stand in golden/errors/text.txt."""

from __future__ import annotations

import pytest
from anyir.ir.errors import AnyIRError
from anyir.ir.parser import parse_module
from anyir.tests.conftest import Golden

HEAD = 'anyir 1\nmodule "m"\n'

CASES = {
    "not ir text": "hello",
    "newer format": "anyir 99\n",
    "no module": "anyir 1\ngraph @main() { return() }",
    "unknown section": HEAD + "grph @main() { return() }",
    "unknown op": HEAD + "graph @main(%x: f32[2]) {\n  %y = softmx(%x) : f32[2]\n  return(%y)\n}",
    "unknown dtype": HEAD + "graph @main(%x: float[2]) {\n  return(%x)\n}",
    "unknown value": HEAD + "graph @main(%input: f32[2]) {\n  %y = neg(%inptu) : f32[2]\n  return(%y)\n}",
    "unknown weight": HEAD + 'weight "conv1.weight" param : f32[] = 1.0\n'
    'graph @main() {\n  const %w = @weights["conv1.wieght"] : f32[]\n  return(%w)\n}',
    "unknown attribute": HEAD + "graph @main(%x: f32[2]) {\n  %y = softmax(%x) {axes = 0} : f32[2]\n  return(%y)\n}",
    "attribute of another type": HEAD
    + "graph @main(%x: f32[2]) {\n  %y = softmax(%x) {axis = [0]} : f32[2]\n  return(%y)\n}",
    "attribute twice": HEAD
    + "graph @main(%x: f32[2]) {\n  %y = softmax(%x) {axis = 0, axis = 0} : f32[2]\n  return(%y)\n}",
    "missing attribute": HEAD + "graph @main(%x: f32[2]) {\n  %y = concat(%x) : f32[2]\n  return(%y)\n}",
    "wrong type": HEAD + "graph @main(%x: f32[2]) {\n  %y = neg(%x) : f32[3]\n  return(%y)\n}",
    "off by one": HEAD + "graph @main(%x: f32[N]) {\n  %y = neg(%x) : f32[N + 1]\n  return(%y)\n}",
    "type missing": HEAD + "graph @main(%x: f32[2]) {\n  %y = neg(%x)\n  return(%y)\n}",
    "too many results": HEAD + "graph @main(%x: f32[2]) {\n  %y, %z = neg(%x) : f32[2]\n  return(%y)\n}",
    "too few operands": HEAD + "graph @main(%x: f32[2]) {\n  %y = add(%x) : f32[2]\n  return(%y)\n}",
    "dtypes differ": HEAD + "graph @main(%x: f32[2], %i: i32[2]) {\n  %y = add(%x, %i) : f32[2]\n  return(%y)\n}",
    "defined twice": HEAD + "graph @main(%x: f32[2]) {\n  %x = neg(%x) : f32[2]\n  return(%x)\n}",
    "graph twice": HEAD + "graph @main() { return() }\ngraph @main() { return() }",
    "weight twice": HEAD + 'weight "w" param : f32[] = 1.0\nweight "w" param : f32[] = 1.0',
    "unknown role": HEAD + 'weight "w" parameter : f32[] = 1.0',
    "symbolic weight": HEAD + 'weight "w" param : f32[N] = [1.0]',
    "too few elements": HEAD + 'weight "w" param : f32[2, 2] = [1.0, 2.0, 3.0]',
    "element too large": HEAD + 'weight "w" param : i8[2] = [127, 128]',
    "element of another kind": HEAD + 'weight "w" param : i8[2] = [1, 1.5]',
    "too many bits": HEAD + 'weight "w" param : f16[1] = [0x7f800000]',
    "contents elsewhere": HEAD + 'weight "w" param : f32[2] = data("00ff")',
    "digest is no hex": HEAD + 'weight "w" param : f32[2] = data("xyz")',
    "negative dim": HEAD + "graph @main(%x: f32[-1]) { return(%x) }",
    "broken dim": HEAD + "graph @main(%x: f32[N +, 2]) { return(%x) }",
    "end in a graph": HEAD + "graph @main(%x: f32[2]) {\n  %y = neg(%x) : f32[2]\n",
    "end in a string": HEAD + 'graph @main(%x: f32[2]) {\n  %y = neg(%x) : f32[2]  loc("torch: "a")\n  return(%y)\n}',
    "no character": HEAD + "graph @main(%x: f32[2]) {\n  %y = neg(%x) ; f32[2]\n  return(%y)\n}",
    "tab before the place": HEAD + "graph @main(%x: f32[2]) {\n\t\t%y = neg(%z) : f32[2]\n  return(%y)\n}",
    "wide characters before the place": HEAD
    + 'graph @main(%x: f32[2]) {\n  %y = softmax(%x) {"é\u202e" = 1, b = @} : f32[2]\n}',
    "region sees too much": HEAD + "graph @main(%c: bool[], %x: f32[2]) {\n  %y = if(%c) : f32[2] {\n    then() {\n"
    "      return(%x)\n    }\n    else() { return(%x) }\n  }\n  return(%y)\n}",
    "signature of no graph": HEAD + 'graph @main() { return() }\nsignature "s" = @mian() -> ()',
    "signature with too few names": HEAD
    + 'graph @main(%x: f32[]) { return(%x) }\nsignature "s" = @main() -> ("y" = 0)',
    "signature with equal names": HEAD
    + 'graph @main(%x: f32[]) { return(%x, %x) }\nsignature "s" = @main("x" = 0) -> ("y" = 0, "y" = 1)',
    "signature out of order": HEAD
    + 'graph @main(%x: f32[]) { return(%x) }\nsignature "s" = @main("x" = 1) -> ("y" = 0)',
    "state of nothing": HEAD
    + 'graph @main(%x: f32[]) { return(%x) }\nsignature "s" = @main("x" = 0) -> ("y" = 0) state [[0, 7]]',
    "path of another type": HEAD
    + 'graph @main(%x: f32[]) { return(%x) }\nsignature "s" = @main("x" path 3 = 0) -> ("y" = 0)',
    "contradicting fact": HEAD + 'fact range "N" 5 2 guard',
    "fact of no kind": HEAD + 'fact maybe "N" 5 2 guard',
    "impossible equality": HEAD + "fact equal [N, N + 1] guard",
    "long line": HEAD + "graph @main(%x: f32[2]) { " + "%y = neg(%x) : f32[2] " * 9 + "}",
    "closing bracket missing": HEAD + 'weight "w" param : f32[2] = [1.0, 2.0\nweight "v" param : f32[] = 1.0',
    "huge integer": HEAD + 'fact divisor "N" ' + "9" * 60 + " guard",
}


def message(text: str) -> str:
    with pytest.raises(AnyIRError) as caught:
        parse_module(text, "model.anyir")
    return f"{caught.value.code} {caught.value}"


def test_messages(golden: Golden) -> None:
    golden.check("errors/text.txt", "\n\n".join(f"== {name}\n{message(text)}" for name, text in CASES.items()) + "\n")


def test_every_message_has_a_place() -> None:
    for name, text in CASES.items():
        assert "model.anyir:" in message(text), name
