"""How an op is defined: once, as a class, from which everything else is derived.

    T = DtypeVar("T", REAL)

    @op
    class Concat(OpDef):
        \"\"\"Join tensors along `axis`. All other dims must agree.\"\"\"
        xs = variadic(T)
        axis = attr(int)
        traits = PURE | SAME_QUANT
        def infer(self, xs, *, axis): ...

The class name in snake_case is the op's name (`@op(name="if")` overrides it; `tfl.conv_2d` style names for targets).
Declaration order is operand order. An op class is instantiated once; nodes point at that instance.

`infer(self, *operands, **attrs)` gets one argument per declared operand: a Value (`.type .shape .dtype .rank .elems`),
None for an absent optional, a tuple of Values for a variadic; attributes come by keyword, defaults filled in. It returns
a Type per result (a bare Type for one result; a list where `results` is `variable`); `Known(type, elems)` in place of a
Type where integer elements are known too. It raises TypeInferError with a reason. Results are memoised by operand types
and attributes unless the class says `reads_elems = True` (needed as soon as infer looks at `.elems`, `.ints()` or constants).

`axes(self, *operands, **attrs) -> AxisMap | None` says how result axes come from operand axes by giving each axis a label,
like an einsum: see `AxisMap`. None (the default for ops that are not ELEMENTWISE) pins every axis.

`samples(self, rng)` yields `Sample`s: concrete operands and attributes that the op accepts. They seed kernel tests,
generated graphs and fuzzing.

This module knows nothing of kernels, frontends or backends: tables stand beside the transformers.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, overload

from .dims import Expr
from .errors import TypeInferError
from .types import DType, TensorType, Type

if TYPE_CHECKING:
    import numpy as np

    from .dims import Dim
    from .value import Node, Value


class Trait(enum.Flag):
    """What passes may assume of an op."""

    NONE = 0
    PURE = enum.auto()  # same operands, same results; no effect: may be erased, merged, folded
    ELEMENTWISE = enum.auto()  # results are computed element by element from operands broadcast as in numpy
    COMMUTATIVE = enum.auto()  # the first two operands may be swapped
    ASSOCIATIVE = enum.auto()  # op(op(a, b), c) = op(a, op(b, c)) up to rounding
    IDEMPOTENT = enum.auto()  # op(op(x)) = op(x) exactly
    MOVEMENT = enum.auto()  # copies elements, computes none: values, dtype and quantisation survive
    SAME_QUANT = enum.auto()  # quantised operands and results must share scale and zero point
    SPATIAL = enum.auto()  # carries `channels_last`
    TERMINATOR = enum.auto()  # ends a graph
    RANDOM = enum.auto()  # a function of (seed, salt): pure, yet two nodes are two draws unless seeds are equal


PURE = Trait.PURE
ELEMENTWISE = Trait.ELEMENTWISE
COMMUTATIVE = Trait.COMMUTATIVE
ASSOCIATIVE = Trait.ASSOCIATIVE
IDEMPOTENT = Trait.IDEMPOTENT
MOVEMENT = Trait.MOVEMENT
SAME_QUANT = Trait.SAME_QUANT
SPATIAL = Trait.SPATIAL
TERMINATOR = Trait.TERMINATOR
RANDOM = Trait.RANDOM


class DtypeVar:
    """A dtype that all operands declared with the same variable share; `allowed` None admits every dtype."""

    __slots__ = ("allowed", "name")

    def __init__(self, name: str, allowed: frozenset[DType] | None = None) -> None:
        self.name = name
        self.allowed = allowed


class Operand:
    """A declared operand: `kind` is one, optional or variadic."""

    __slots__ = ("constraint", "kind", "name")

    def __init__(self, kind: str, constraint: DtypeVar | frozenset[DType] | None) -> None:
        self.name = ""
        self.kind = kind
        self.constraint = constraint


def operand(constraint: DtypeVar | frozenset[DType] | None = None) -> Any:
    """A required operand whose dtype is unified with a variable, in a set, or free."""
    return Operand("one", constraint)


def optional(constraint: DtypeVar | frozenset[DType] | None = None) -> Any:
    """An operand that may be absent (None)."""
    return Operand("optional", constraint)


def variadic(constraint: DtypeVar | frozenset[DType] | None = None) -> Any:
    """Any number of operands; the last one declared."""
    return Operand("variadic", constraint)


ints = tuple[int, ...]
floats = tuple[float, ...]
strs = tuple[str, ...]

REQUIRED: Any = object()


class Attr:
    """A declared attribute: its Python type, default (REQUIRED if none; None is a legal default) and choices."""

    __slots__ = ("choices", "default", "doc", "name", "type")

    def __init__(self, type_: Any, default: Any, choices: tuple | None, doc: str) -> None:
        self.name = ""
        self.type = type_
        self.default = default
        self.choices = choices
        self.doc = doc

    def check(self, value: Any) -> Any:
        """`value` in its canonical immutable form. Raises TypeInferError when it has another type."""
        if value is None and self.default is None:
            return None
        made = _COERCE[self.type](value)
        if made is None or (self.choices is not None and made not in self.choices):
            wanted = f"one of {', '.join(map(str, self.choices))}" if self.choices else _type_name(self.type)
            raise TypeInferError(f"attribute {self.name} is {value!r}, expected {wanted}")
        return made


def attr(type_: Any, default: Any = REQUIRED, *, choices: tuple | None = None, doc: str = "") -> Any:
    """An attribute of type int, float, bool, str, ints, floats, strs, DType, Type or object (any immutable value)."""
    return Attr(type_, default, choices, doc)


def _type_name(type_: Any) -> str:
    return getattr(type_, "__name__", str(type_)) if type_ not in (ints, floats, strs) else str(type_)


def _as_int(value: Any) -> int | None:
    return int(value) if isinstance(value, int) or hasattr(value, "__index__") else None


def _as_float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) or hasattr(value, "__float__") else None


def _tuple_of(one: Callable[[Any], Any]) -> Callable[[Any], tuple | None]:
    def convert(value: Any) -> tuple | None:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            return None
        made = tuple(one(item) for item in value)
        return None if any(item is None for item in made) else made

    return convert


def _of_class(cls: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, cls) else None


def _as_bool(value: Any) -> bool | None:
    return bool(value) if isinstance(value, (bool, int)) or type(value).__name__ in ("bool", "bool_") else None


_COERCE: dict[Any, Callable[[Any], Any]] = {
    int: _as_int,
    float: _as_float,
    bool: _as_bool,
    str: _of_class(str),
    ints: _tuple_of(_as_int),
    floats: _tuple_of(_as_float),
    strs: _tuple_of(_of_class(str)),
    DType: _of_class(DType),
    Type: _of_class(Type),
    object: lambda value: value,
}


class Known(NamedTuple):
    """A result type together with its integer elements in row-major order; an unknown element is None."""

    type: Type
    elems: tuple[Dim | None, ...] | None = None


class Axis(NamedTuple):
    """The label of one axis. Roles:

    pass       index i of a result axis with this label depends on index i of every operand axis with it
    broadcast  this operand axis has size 1 and is repeated along the result axis with this label
    contract   operands only: the op reduces over it; permuting or dropping zero slices on all of them keeps the result
    concat     the result axis is the operand axes with this label, one after another
    split      the results' axes with this label, one after another, are the operand's axis
    """

    label: str
    role: str = "pass"


class AxisMap(NamedTuple):
    """For each operand (absent: None) and each result, one Axis per axis, or None for a pinned axis (position matters)."""

    operands: tuple[tuple[Axis | None, ...] | None, ...]
    results: tuple[tuple[Axis | None, ...], ...]


class Typed(NamedTuple):
    """An operand of a sample that is no tensor: what a kernel gets (a list for a sequence), and its type."""

    value: Any
    type: Type


class Sample(NamedTuple):
    """One accepted call: operands are arrays, None (absent optional) or, for a variadic, a list of arrays at the end;
    `Typed` for sequences and optionals.

    `const` names operands that must be constants for inference to work (reshape's shape, say).
    """

    operands: tuple
    attrs: dict[str, Any] = {}
    const: tuple[str, ...] = ()


class Attrs(Mapping[str, Any]):
    """An immutable, interned set of attributes of one op, in declaration order. Compared by identity within an op."""

    __slots__ = ("_values", "key")

    def __init__(self, values: dict[str, Any], key: tuple) -> None:
        self._values = values
        self.key = key

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def plain(self) -> dict[str, Any]:
        """The attributes as a dict, quick to pass on by keyword; must not be changed."""
        return self._values

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Attrs) and self.key == other.key)

    def __repr__(self) -> str:
        return repr(self._values)


_AS_THEY_ARE = frozenset({int, str, bytes, type(None), DType})


def _key(value: Any) -> Any:
    """A hashable stand-in under which 1, 1.0 and True, 0.0 and -0.0, or two NaNs with different bits, stay different."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is tuple:
        return ("t", *map(_key, value))
    if kind is float:
        return ("f", struct.pack("<d", value))
    if kind is bool:
        return ("b", value)
    digest = getattr(value, "digest", None)
    return ("d", digest()) if callable(digest) else value


_PLAIN = frozenset({int, str, DType, type(None)})


def _is_plain(given: Mapping[str, Any]) -> bool:
    """Only numbers, names and tuples of them, none of which equals one of another type (as 1 equals 1.0 and True)."""
    for value in given.values():
        if type(value) not in _PLAIN and not (type(value) is tuple and _PLAIN.issuperset(map(type, value))):
            return False
    return True


#: Inference over operands with more known elements than this is not remembered.
MEMO_ELEMS = 16


class OpDef:
    """Base of all op definitions; see the module's docstring."""

    name: ClassVar[str]
    results: ClassVar[tuple[str, ...] | str] = ("y",)
    traits: ClassVar[Trait] = Trait.PURE
    reads_elems: ClassVar[bool] = False
    regions: ClassVar[tuple[str, ...]] = ()
    open_attrs: ClassVar[bool] = False

    operands: ClassVar[tuple[Operand, ...]]
    attributes: ClassVar[dict[str, Attr]]

    def __init__(self) -> None:
        self.min_operands = sum(o.kind == "one" for o in self.operands)
        variadic_last = bool(self.operands) and self.operands[-1].kind == "variadic"
        self.max_operands = None if variadic_last else len(self.operands)
        #: Where a variadic begins: operands before it are written even when absent, so that positions stay clear.
        self.min_position = len(self.operands) - 1 if variadic_last else 0
        self.positions = {o.name: i for i, o in enumerate(self.operands)}
        self._attr_sets: dict[tuple, Attrs] = {}
        self._plain_sets: dict[tuple, Attrs] = {}
        self._memo: dict[tuple, tuple[Known, ...]] = {}
        self._trait_bits = self.traits.value
        self.defaults = self.make_attrs({}) if not self._required() else None

    def _required(self) -> list[str]:
        return [a.name for a in self.attributes.values() if a.default is REQUIRED]

    def has(self, trait: Trait) -> bool:
        """Whether the op has this trait (all of them, if several are joined)."""
        bits = trait._value_
        return self._trait_bits & bits == bits

    # What a family file writes.

    def infer(self, *operands: Any, **attrs: Any) -> Any:
        raise TypeInferError(f"{self.name} has no shape rule")

    def axes(self, /, *operands: Any, **attrs: Any) -> AxisMap | None:
        if not self.has(ELEMENTWISE):
            return None
        flat = [v for o in operands for v in (o if isinstance(o, tuple) else (o,))]
        return elementwise_axes(flat)

    def samples(self, rng: np.random.Generator) -> Iterator[Sample]:
        return iter(())

    def memoisable(self, operands: tuple[Value | None, ...]) -> bool:
        """Whether infer, although it reads elements, never looks into constants like those of these operands whose
        elements are not known (floats, or too many of them)."""
        return not self.reads_elems

    # What the IR calls.

    def region_names(self, attrs: Mapping[str, Any]) -> tuple[str, ...]:
        """What the regions of a node with these attributes are called in the text."""
        return self.regions

    def make_attrs(self, given: Mapping[str, Any]) -> Attrs:
        """Validated, defaulted, interned attributes. Raises TypeInferError for an unknown, missing or wrong one."""
        if not given and getattr(self, "defaults", None) is not None:
            return self.defaults  # type: ignore[return-value]
        if not _is_plain(given):
            return self._checked(given)
        key = (*given, *given.values())
        found = self._plain_sets.get(key)
        if found is None:
            found = self._plain_sets[key] = self._checked(given)
        return found

    def _checked(self, given: Mapping[str, Any]) -> Attrs:
        values: dict[str, Any] = {}
        for name, declared in self.attributes.items():
            value = given.get(name, declared.default)
            if value is REQUIRED:
                raise TypeInferError(f"{self.name} needs the attribute {name}")
            values[name] = declared.check(value) if name in given else value
        for name in given:
            if name not in values:
                if not self.open_attrs:
                    raise TypeInferError(
                        f"{self.name} has no attribute {name!r}", hint=f"it has: {', '.join(self.attributes) or 'none'}"
                    )
                values[name] = given[name]
        key = tuple((name, _key(value)) for name, value in values.items())
        found = self._attr_sets.get(key)
        if found is None:
            found = self._attr_sets[key] = Attrs(values, key)
        return found

    def group(self, operands: tuple) -> list:
        """Flat operands as one item per declared operand: a tuple for a variadic, None for an absent optional."""
        declared = self.operands
        if declared and declared[-1].kind == "variadic":
            fixed = len(declared) - 1
            absent = [None] * (fixed - len(operands))
            return [*operands[:fixed], *absent, tuple(operands[fixed:])]
        return [*operands, *([None] * (len(declared) - len(operands)))]

    def check_operands(self, operands: tuple[Value | None, ...]) -> None:
        """Arity, presence and dtype constraints. Raises TypeInferError."""
        count = len(operands)
        if count < self.min_operands or (self.max_operands is not None and count > self.max_operands):
            raise TypeInferError(f"{self.name} takes {self._arity()} operands, got {count}")
        bound: dict[DtypeVar, tuple[DType, str]] = {}
        for index, value in enumerate(operands):
            declared = self.operands[min(index, len(self.operands) - 1)]
            if value is None:
                if declared.kind == "one":
                    raise TypeInferError(f"operand {declared.name} of {self.name} is missing")
                continue
            self._check_dtype(declared, value, bound)

    def _check_dtype(self, declared: Operand, value: Value, bound: dict[DtypeVar, tuple[DType, str]]) -> None:
        constraint, type_ = declared.constraint, value.type
        if constraint is None:
            return
        if not isinstance(type_, TensorType):
            raise TypeInferError(f"operand {declared.name} of {self.name} is {type_}, expected a tensor")
        dtype = type_.dtype
        if dtype is None:
            return
        allowed = constraint.allowed if isinstance(constraint, DtypeVar) else constraint
        if allowed is not None and dtype not in allowed:
            raise TypeInferError(
                f"operand {declared.name} of {self.name} has dtype {dtype}, allowed: {_names(allowed)}",
                hint="insert a cast",
            )
        if isinstance(constraint, DtypeVar):
            first, where = bound.setdefault(constraint, (dtype, declared.name))
            if first is not dtype:
                raise TypeInferError(
                    f"operands {where} and {declared.name} of {self.name} have dtypes {first} and {dtype}; they must agree",
                    hint="insert a cast: the IR never promotes",
                )

    def _arity(self) -> str:
        if self.max_operands is None:
            return f"{self.min_operands} or more"
        if self.max_operands == self.min_operands:
            return str(self.min_operands)
        return f"{self.min_operands} to {self.max_operands}"

    def infer_results(self, operands: tuple[Value | None, ...], attrs: Attrs, regions: tuple = ()) -> tuple[Known, ...]:
        """Types and known elements of all results; checks operands first. Raises TypeInferError."""
        memo_key = None if regions else self._memo_key(operands, attrs)
        if memo_key is not None:
            found = self._memo.get(memo_key)
            if found is not None:
                return found
        fresh = Expr._fresh
        self.check_operands(operands)
        extra = {"regions": regions} if self.regions else {}
        made = self._normalise(self.infer(*self.group(operands), **attrs, **extra))
        # A type with a fresh symbol belongs to one node: two nodes that share it would be held to have equal dims.
        if memo_key is not None and Expr._fresh == fresh:
            self._memo[memo_key] = made
        return made

    def _memo_key(self, operands: tuple[Value | None, ...], attrs: Attrs) -> tuple | None:
        """All that inference may look at: attributes, types, and behind a type the few elements known of a value. None
        where it may look at more: many elements, or the contents of a constant."""
        if not self.reads_elems:
            return (attrs, *[None if v is None else v.type for v in operands])
        key: list[Any] = [attrs]
        for value in operands:
            if value is None:
                key.append(None)
                continue
            key.append(value.type)
            if value._elems is None and value.weight is None:
                continue
            elems = value.elems
            if elems is None:
                if not self.memoisable(operands):
                    return None
            elif len(elems) > MEMO_ELEMS:
                return None
            else:
                key.append(elems)
        return tuple(key)

    def _normalise(self, made: Any) -> tuple[Known, ...]:
        many = made if isinstance(made, (list, tuple)) and not isinstance(made, Known) else (made,)
        return tuple(item if isinstance(item, Known) else Known(item) for item in many)

    def axis_map(self, node: Node) -> AxisMap | None:
        """`axes` of one node."""
        return self.axes(*self.group(node.operands), **node.attrs)

    def result_name(self, index: int) -> str:
        return self.results[index] if isinstance(self.results, tuple) else f"{self.results}{index}"

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> tuple:
        from .ops import get_op

        return get_op, (self.name,)


def _names(dtypes: frozenset[DType]) -> str:
    return ", ".join(sorted(d.name for d in dtypes))


def elementwise_axes(operands: list[Value | None]) -> AxisMap | None:
    """The axis map of numpy broadcasting; None when a rank is unknown."""
    ranks = [0 if v is None else v.rank for v in operands]
    if any(r is None for r in ranks):
        return None
    rank = max((r for r in ranks if r is not None), default=0)
    sizes: list[Any] = [1] * rank
    for value in operands:
        if value is not None and value.shape:
            for offset, dim in enumerate(value.shape, rank - len(value.shape)):
                sizes[offset] = dim if sizes[offset] == 1 else sizes[offset]
    maps: list[tuple[Axis | None, ...] | None] = []
    for value in operands:
        if value is None:
            maps.append(None)
            continue
        shape = value.shape or ()
        pairs = enumerate(shape, rank - len(shape))
        maps.append(tuple(Axis(f"d{i}", "broadcast" if d == 1 and sizes[i] != 1 else "pass") for i, d in pairs))
    return AxisMap(tuple(maps), (tuple(Axis(f"d{i}") for i in range(rank)),))


OPS: dict[str, OpDef] = {}


@overload
def op(cls: type[OpDef]) -> type[OpDef]: ...
@overload
def op(*, name: str) -> Callable[[type[OpDef]], type[OpDef]]: ...
def op(cls: type[OpDef] | None = None, *, name: str | None = None) -> Any:
    """Register an OpDef class. A second op of the same name is an error."""
    if cls is None:
        return lambda made: _register(made, name)
    return _register(cls, name)


def _register(cls: type[OpDef], name: str | None) -> type[OpDef]:
    cls.name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
    declared = [(key, item) for base in reversed(cls.__mro__) for key, item in vars(base).items()]
    operands: dict[str, Operand] = {}
    attributes: dict[str, Attr] = {}
    for key, item in declared:
        if isinstance(item, (Operand, Attr)):
            made = _named(item, key)
            if isinstance(made, Operand):
                operands[made.name] = made
            else:
                attributes[made.name] = made
    cls.operands = tuple(operands.values())
    cls.attributes = attributes
    if cls.name in OPS:
        raise TypeError(f"op {cls.name!r} is defined twice: {type(OPS[cls.name]).__module__} and {cls.__module__}")
    OPS[cls.name] = cls()
    return cls


def _named(item: Operand | Attr, key: str) -> Operand | Attr:
    """`item` under its class-level name; a copy when a base class shares it with other ops."""
    copy = (
        Operand(item.kind, item.constraint)
        if isinstance(item, Operand)
        else Attr(item.type, item.default, item.choices, item.doc)
    )
    copy.name = key.rstrip("_")
    return copy
