"""ai.onnx.preview.training: one step of three optimisers as arithmetic, and gradients of a part of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.graph import Value
from ...ir.storage import check_limit
from ...ir.types import I64
from .importer import Call, Importer, known_dtype
from .registry import handles

DOMAIN = "ai.onnx.preview.training"
#: A gradient walks through the graph; so many nodes on the way count as one made.
WALKED = 20


def _groups(n: Call, kinds: int) -> list[tuple[Value, ...]]:
    """The variadic inputs as one tuple per optimised tensor: its value, its gradient, its accumulators."""
    values = n.inputs[2:]
    if not values or len(values) % kinds or any(v is None for v in values):
        raise n.invalid(f"{len(values)} tensors do not make groups of {kinds}")
    count = len(values) // kinds
    return [tuple(values[i::count]) for i in range(count)]  # type: ignore[arg-type]


def _ordered(made: Sequence[Sequence[Value]]) -> list[Value]:
    """Results tensor by tensor as the operators list them: all new values, then all new accumulators, kind by kind."""
    return [value for kind in zip(*made, strict=True) for value in kind]


class _Step:
    """What the steps share: rate and count as scalars in the dtype of one tensor, and numbers in it."""

    def __init__(self, c: Importer, n: Call, x: Value) -> None:
        self.c, self.n, self.b, self.x = c, n, c.b, x
        rate, count = n.take(2)
        self.first = c.b.less_equal(c.b.reshape(count, ()), c.const(0) if count.dtype is I64 else c.scalar(0, count))
        self.rate, self.count = (self._scalar(v) for v in (rate, count))

    def _scalar(self, value: Value) -> Value:
        made = value if value.rank == 0 else self.b.reshape(value, ())
        return made if made.dtype is self.x.dtype else self.b.cast(made, to=known_dtype(self.x))

    def number(self, value: float) -> Value:
        return self.c.scalar(value, self.x)

    def regularized(self, gradient: Value) -> Value:
        """norm_coefficient * X + G."""
        factor = self.n.attr("norm_coefficient", 0.0)
        return self.b.add(self.b.mul(self.number(factor), self.x), gradient) if factor else gradient

    def mixed(self, factor: float, old: Value, new: Value) -> Value:
        """factor * old + (1 - factor) * new."""
        return self.b.add(self.b.mul(self.number(factor), old), self.b.mul(self.number(1 - factor), new))


@handles("Adagrad", domain=DOMAIN)
def adagrad(c: Importer, n: Call) -> Any:
    made = []
    for x, gradient, squares in _groups(n, 3):
        step, b = _Step(c, n, x), c.b
        decay = b.add(step.number(1), b.mul(step.count, step.number(n.attr("decay_factor", 0.0))))
        g = step.regularized(gradient)
        new = b.add(squares, b.mul(g, g))
        adapted = b.add(b.sqrt(new), step.number(n.attr("epsilon", 1e-6)))
        made.append((b.sub(x, b.div(b.mul(b.div(step.rate, decay), g), adapted)), new))
    return _ordered(made)


@handles("Adam", domain=DOMAIN)
def adam(c: Importer, n: Call) -> Any:
    alpha, beta, post = n.attr("alpha", 0.9), n.attr("beta", 0.999), n.attr("norm_coefficient_post", 0.0)
    made = []
    for x, gradient, momentum, squares in _groups(n, 4):
        step, b = _Step(c, n, x), c.b
        g = step.regularized(gradient)
        v, h = step.mixed(alpha, momentum, g), step.mixed(beta, squares, b.mul(g, g))
        left = [b.sub(step.number(1), b.pow(step.number(f), step.count)) for f in (beta, alpha)]
        adjusted = b.div(b.mul(step.rate, b.sqrt(left[0])), left[1])
        rate = b.where(step.first, step.rate, adjusted)
        new = b.sub(x, b.div(b.mul(rate, v), b.add(b.sqrt(h), step.number(n.attr("epsilon", 1e-6)))))
        made.append((b.mul(step.number(1 - post), new) if post else new, v, h))
    return _ordered(made)


@handles("Momentum", domain=DOMAIN)
def momentum(c: Importer, n: Call) -> Any:
    mode = n.attr("mode")
    if mode not in ("standard", "nesterov"):
        raise n.invalid(f"mode is {mode!r} (standard or nesterov expected)")
    made = []
    for x, gradient, old in _groups(n, 3):
        step, b = _Step(c, n, x), c.b
        alpha = step.number(n.attr("alpha"))
        g = step.regularized(gradient)
        weight = b.where(step.first, step.number(1), step.number(n.attr("beta")))
        v = b.add(b.mul(alpha, old), b.mul(weight, g))
        way = b.add(g, b.mul(alpha, v)) if mode == "nesterov" else v
        made.append((b.sub(x, b.mul(step.rate, way)), v))
    return _ordered(made)


@handles("Gradient", domain=DOMAIN)
def gradient(c: Importer, n: Call) -> Any:
    """The sum of y's derivatives by each of xs, at the values that are handed in. Where those are not the values that the
    names stand for, the part of the graph between is computed once more at them."""
    from ...passes.autodiff import gradients, recomputed  # rarely asked for, and not light

    names = (*n.attr("xs"), *(n.attr("zs") or ()))
    if len(n.inputs) != len(names):
        raise n.invalid(f"{len(n.inputs)} inputs for {len(names)} names in xs and zs")
    known = [_named(c, n, name) for name in (*names, n.attr("y"))]
    *free, y = known
    moved = {old: new for old, new in zip(free, n.inputs, strict=True) if old is not new and new is not None}
    before = len(c.b.graph)
    if moved:
        y = recomputed(c.b, y, free, moved)
    at = [moved.get(value, value) for value in free]
    made = gradients(c.b, y, at[: len(n.attr("xs"))], at)
    c.derived += len(c.b.graph) - before + before // WALKED
    check_limit("gradient_nodes", c.derived, "nodes made by gradients", n.label)
    return made


def _named(c: Importer, n: Call, name: Any) -> Value:
    """The value that a name stands for, which must have been computed by now."""
    scope = n.scope
    while scope is not None:
        if name in scope.values or name in scope.lazy:
            return c.lookup(name, n.scope)
        scope = scope.outer  # type: ignore[assignment]
    raise n.invalid(f"{name!r} is not computed before the gradient of it is asked for")
