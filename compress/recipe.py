"""Recipes: what to do to a model, as data. Read from YAML, TOML or JSON, checked whole before any model is read.

    schema: 1
    extends: int8
    data: {source: ./images, preprocess: 'resize=224,scale=1/127.5,shift=-1', count: 200}
    steps:
      - {pass: quantize, where: 'op=conv & scope~"head"', weights: int8}
    verify: {drop: 0.5}
    budget: {file: 27%}

All mistakes of a file are reported at once, each with its line, column and the name that was near. pydantic and PyYAML
are imported when a recipe is made and not before.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..ir.errors import UsageError
from ..passes.manager import Pass, find_pass
from ..passes.pipeline import Step, print_pipeline
from ..passes.select import selector
from . import document
from .document import Document

SCHEMA = 1
FOLDER = Path(__file__).parent / "recipes"
#: Recipes that extend each other.
CHAIN = 8

#: How Python functions are named: never in a recipe.
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

#: Formats that options may differ by.
TARGETS = ("onnx", "tflite", "mindir", "pt2", "torch", "anyir")

#: Where a step stands when flags are combined: norms and dead weights are gone before (the -O level), and what
#: changes weights comes before what measures them. Passes not named here keep their place at the end.
ORDER = ("equalize", "prune", "clip", "dead-weights", "quantize", "correct-bias", "fold-quantize", "integer-ops")


@dataclass(frozen=True)
class DataChoice:
    """Calibration samples: where from, how they become inputs, how many are used, and what the loss is measured on
    (another source, or how many of the rest)."""

    source: Any = None
    preprocess: Any = None
    count: int = 200
    evaluation: Any = None
    seed: int = 0


@dataclass(frozen=True)
class Limits:
    """What the loss may be; None is not asked. `drop` is in percentage points: of accuracy where there are labels, else of
    agreement with the source."""

    drop: float | None = None
    agreement: float | None = None
    cosine: float | None = None
    sqnr: float | None = None
    max_abs: float | None = None


@dataclass(frozen=True)
class Budget:
    """What the result may cost: a number of bytes or MACs, or a share of the source's such as '27%'."""

    file: int | str | None = None
    weights: int | str | None = None
    macs: int | str | None = None


@dataclass(frozen=True)
class Recipe:
    """Steps with what they need and what must hold in the end. `targets` adds steps and changes their options for a format
    that the result is written in; `level` is the -O level that runs before them."""

    name: str = "flags"
    steps: tuple[Step, ...] = ()
    targets: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    level: int = 2
    data: DataChoice = field(default_factory=DataChoice)
    verify: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)
    description: str = ""

    @property
    def pipeline(self) -> str:
        """The steps as pipeline text."""
        return print_pipeline(self.steps)

    def for_target(self, format: str) -> Recipe:
        """The recipe with the options and steps that it has for an output of this format."""
        return replace(self, steps=tuple(merged(self.steps, self.targets.get(format, ()))), targets={})

    @property
    def text(self) -> str:
        """The whole recipe in one line of JSON, for the model's metadata; without paths, so that the same data in another
        folder gives the same bytes."""
        steps = [{"pass": step.name, **step.options} for step in self.steps]
        data = {"count": self.data.count, "seed": self.data.seed, "preprocess": self.data.preprocess}
        told: dict[str, Any] = {"schema": SCHEMA, "level": self.level, "steps": steps, "data": data}
        told |= {"verify": _given(self.verify), "budget": _given(self.budget)}
        return json.dumps(told, sort_keys=True, separators=(",", ":"), default=str)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def lossy(self) -> list[Step]:
        """The steps that may change the numbers beyond rounding."""
        return [step for step in self.steps if is_lossy(step)]


def is_lossy(step: Step) -> bool:
    """Whether a step may change the numbers beyond rounding."""
    return find_pass(step.name).numerics not in ("exact", "ulp")


def _given(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in fields(part) if getattr(part, f.name) is not None}


# ------------------------------------------------------------------------------------------------------ from a file


def names() -> list[str]:
    """The built-in recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_recipe(source: str | os.PathLike[str]) -> Recipe:
    """A built-in recipe by name, or the one in a file. Raises UsageError (R020) with every mistake."""
    text = os.fspath(source)
    if text in names():
        return _load(FOLDER / f"{text}.yaml", [])
    if not os.path.exists(text) and os.path.splitext(text)[1].lower() not in document.PARSERS:
        raise UsageError(
            f"there is no recipe {text!r}", code="R020", hint=_near(text, names(), "irc recipes lists them")
        )
    return _load(Path(text), [])


def parse_recipe(text: str, file: str = "<recipe>", suffix: str = ".yaml") -> Recipe:
    """The recipe that `text` is; `extends` looks for files beside `file`. Raises UsageError (R020)."""
    return _checked(document.parse(text, file, suffix), Path(file), [])


def _load(path: Path, chain: list[str]) -> Recipe:
    """The recipe in a file, on top of those that it extends; `chain` are the files that lead here."""
    real = os.path.realpath(path)
    if real in chain:
        shown = " -> ".join(os.path.basename(p) for p in [*chain, real])
        raise UsageError(f"recipes extend each other in a circle: {shown}", code="R020", where=str(path))
    if len(chain) == CHAIN:
        raise UsageError(f"more than {CHAIN} recipes extend each other", code="R020", where=str(path))
    return _checked(document.read(path), path, [*chain, real])


def _checked(made: Document, path: Path, chain: list[str]) -> Recipe:
    if path.parent == FOLDER:
        made.file = path.stem
    mistakes = _Mistakes(made)
    stated = _validated(made, mistakes)
    base = _base(stated, path, chain, mistakes) if stated else None
    steps = _steps(stated, base, mistakes) if stated else ()
    targets = _targets(stated, base, mistakes)
    _check_values(steps, ("steps",), stated.get("steps", ()), mistakes)
    for name, added in targets.items() if not mistakes.found else ():
        apart = [step for step in merged(steps, added) if step not in steps]
        _check_values(apart, ("targets", name), stated.get("targets", {}).get(name, ()), mistakes)
    mistakes.end()
    return replace(_assembled(stated, base or Recipe(), path, steps), targets=targets)


class _Mistakes:
    """Everything that is wrong with a document."""

    def __init__(self, made: Document) -> None:
        self.made = made
        self.found: list[tuple[tuple[str | int, ...], str]] = []

    def add(self, path: Sequence[str | int], what: str) -> None:
        self.found.append((tuple(path), what))

    def end(self) -> None:
        """Raises UsageError (R020) when there is any, all in the order of the file."""
        if not self.found:
            return
        ranked = sorted(self.found, key=lambda item: self.made.places.get(item[0], (1 << 30, 0)))
        lines = [f"{self.made.at(path)}: {_dotted(path)}{what}" for path, what in ranked]
        if len(lines) == 1:
            where, _, what = lines[0].partition(": ")
            raise UsageError(what, code="R020", where=where)
        raise UsageError("\n  ".join([f"{len(lines)} mistakes", *lines]), code="R020", where=self.made.file)


def _dotted(path: Sequence[str | int]) -> str:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{shown.removeprefix('.')}: " if shown else ""


def _near(name: str, known: Iterable[str], otherwise: str = "") -> str:
    options = list(known)
    found = difflib.get_close_matches(name, options, 1)
    return f"did you mean {found[0]}?" if found else otherwise or f"known: {', '.join(options)}"


def _validated(made: Document, mistakes: _Mistakes) -> dict[str, Any]:
    """The document through its model; where it has mistakes of form its steps alone, so that theirs are found too."""
    from pydantic import ValidationError

    from .schema import RecipeFile, keys_at

    if not isinstance(made.value, dict):
        mistakes.add((), "a recipe is a mapping with schema: 1 and steps:")
        return {}
    try:
        parsed = RecipeFile.model_validate(made.value)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            mistakes.add(*_told(tuple(item["loc"]), item, keys_at, made))
        steps = made.value.get("steps")
        return {"steps": steps} if isinstance(steps, list) else {}
    return parsed.model_dump(by_alias=True, exclude_unset=True)


def _told(path: tuple[str | int, ...], item: Any, keys_at: Any, made: Document) -> tuple[tuple[str | int, ...], str]:
    """Where a mistake of form stands and what it is, in our words."""
    own = path
    while own and own not in made.places and item["type"] != "missing":
        own = own[:-1]  # pydantic names the branch of a union behind the place
    if item["type"] == "extra_forbidden":
        return own, f"there is no such key; {_near(str(own[-1]), keys_at(own[:-1]))}"
    if item["type"] == "missing":
        return own[:-1], f"the key {own[-1]!r} is missing"
    what = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return own, f"{what}, not {repr(item['input'])[:60]}"


def _base(stated: Mapping[str, Any], path: Path, chain: list[str], mistakes: _Mistakes) -> Recipe | None:
    """What the recipe extends: a built-in one, else a file beside it."""
    name = stated.get("extends")
    if name is None:
        return None
    if name in names():
        return _load(FOLDER / f"{name}.yaml", chain)
    target = path.parent / name
    if not target.is_file():
        mistakes.add(("extends",), f"there is no recipe or file {name!r}; {_near(name, names())}")
        return None
    return _load(target, chain)


# ------------------------------------------------------------------------------------------------------------- steps


def _steps(stated: Mapping[str, Any], base: Recipe | None, mistakes: _Mistakes) -> tuple[Step, ...]:
    """The recipe's steps as they stand, or merged into those of its base."""
    made = _listed(stated.get("steps", ()), ("steps",), mistakes)
    inherited = [step.name for step in (base.steps if base else ())]
    for index, options in enumerate(stated.get("steps", ())):
        if isinstance(options, dict) and inherited.count(options.get("pass")) > 1:
            mistakes.add(("steps", index, "pass"), "the extended recipe has several steps of this pass: copy its steps")
    if base is not None:
        return tuple(merged(base.steps, made))
    if not made and not mistakes.found:
        mistakes.add(("steps",), "there is nothing to do; give steps, or extend a recipe that has some")
    return tuple(made)


def _listed(steps: Sequence[Any], path: tuple[str | int, ...], mistakes: _Mistakes) -> list[Step]:
    """The steps of a list that are right; the mistakes of the others are noted."""
    made = []
    for index, options in enumerate(steps):
        if isinstance(options, dict) and isinstance(options.get("pass"), str):  # else told with the form
            given = {key: value for key, value in options.items() if key != "pass"}
            step = _step(options["pass"], given, (*path, index), mistakes)
            made += [step] if step is not None else []
    return made


def _targets(stated: Mapping[str, Any], base: Recipe | None, mistakes: _Mistakes) -> dict[str, tuple[Step, ...]]:
    """Options by output format: the base's, but for those that the recipe's own steps set, and its own."""
    own = {step["pass"]: step for step in stated.get("steps", ()) if isinstance(step, dict) and "pass" in step}
    made: dict[str, list[Step]] = {}
    for name, steps in (base.targets if base is not None else {}).items():
        made[name] = [Step(s.name, {k: v for k, v in s.options.items() if k not in own.get(s.name, {})}) for s in steps]
    for name, steps in stated.get("targets", {}).items():
        if name not in TARGETS:
            mistakes.add(("targets", name), f"there is no format to write of that name; {_near(name, TARGETS)}")
        made[name] = merged(made.get(name, ()), _listed(steps, ("targets", name), mistakes))
    return {name: tuple(steps) for name, steps in made.items()}


def merged(base: Iterable[Step], added: Iterable[Step]) -> list[Step]:
    """`base` and what is added to it: a step of a pass that the base has changes that step's options, another one is put
    where ORDER has it."""
    made = list(base)
    for step in added:
        own = next((i for i, other in enumerate(made) if other.name == step.name), None)
        if own is not None:
            made[own] = Step(step.name, {**made[own].options, **step.options})
        else:
            rank = _rank(step)
            made.insert(next((i for i, other in enumerate(made) if _rank(other) > rank), len(made)), step)
    return made


def _step(name: str, given: dict[str, Any], path: tuple[str | int, ...], mistakes: _Mistakes) -> Step | None:
    """One step whose pass exists and takes its options; None and mistakes otherwise."""
    try:
        found = find_pass(name)
    except UsageError as error:
        mistakes.add((*path, "pass"), f"{error.message}; {error.hint}")
        return None
    before = len(mistakes.found)
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key not in found.options:
            mistakes.add((*path, key), f"{name} has no such option; {_near(key, found.options)}")
            continue
        try:
            options |= _option(found, key, value)
        except UsageError as error:
            mistakes.add((*path, key), _with_hint(error))
    for key, declared in found.options.items():
        if declared.default is declared.empty and key not in given:
            mistakes.add((*path, "pass"), f"{name} needs the option {key}")
    return Step(name, options) if len(mistakes.found) == before else None


def _with_hint(error: UsageError) -> str:
    first, newline, picture = error.message.partition("\n")
    return "; ".join(filter(None, (first, error.hint))) + (newline + picture).replace("\n", "\n    ")


def _check_values(steps: Iterable[Step], path: tuple[str | int, ...], stated: Any, mistakes: _Mistakes) -> None:
    """Note what the options of a step, those of the extended recipe among them, do not allow; at the list in `path` that the
    file has in `stated`."""
    own = [item.get("pass") if isinstance(item, dict) else None for item in stated]
    for step in steps:
        try:
            find_pass(step.name).check_options(step.options)
        except UsageError as error:
            place = (*path, own.index(step.name)) if step.name in own else path
            mistakes.add(place, _with_hint(error))


def _option(found: Pass, key: str, value: Any) -> dict[str, Any]:
    """The option converted to its declared type. Raises UsageError for a wrong type, choice or `where` expression."""
    declared = found.options[key]
    made = replace(found, options={key: declared}, check=None).check_options({key: value})
    if key == "where":
        selector(made[key])
    allowed = choices(found, key)
    if allowed and made[key] not in allowed:
        raise UsageError(f"{made[key]!r} is none of {', '.join(map(str, allowed))}")
    return made


def choices(found: Pass, option: str) -> tuple[Any, ...]:
    """The values that a pass's option may have, where it says so by a Literal annotation; else none are listed."""
    from typing import Literal, get_args, get_origin, get_type_hints

    hint = get_type_hints(found.run).get(option)
    return get_args(hint) if get_origin(hint) is Literal else ()


def _assembled(stated: Mapping[str, Any], base: Recipe, path: Path, steps: tuple[Step, ...]) -> Recipe:
    """What is stated on top of `base`; paths of data are relative to the recipe's file."""
    data = dict(stated.get("data", {}))
    data |= {key: str(path.parent / data[key]) for key in ("source", "evaluation") if isinstance(data.get(key), str)}
    return Recipe(
        name=path.stem,
        steps=steps,
        level=stated.get("optimize", base.level),
        data=replace(base.data, **data),
        verify=replace(base.verify, **stated.get("verify", {})),
        budget=replace(base.budget, **stated.get("budget", {})),
        description=stated.get("description", ""),
    )


# --------------------------------------------------------------------------------------------------------- from flags

#: --quantize KIND -> the built-in recipe whose steps it stands for.
KINDS = {
    "int8": "int8",
    "int8x16": "int8x16",
    "16x8": "int8x16",
    "dynamic": "dynamic-int8",
    "int8-weights": "int8-weights",
    "int4": "int4-weights",
    "float16": "float16",
}


def from_flags(
    base: Recipe | None = None,
    *,
    quantize: str | None = None,
    prune: Mapping[str, Any] | None = None,
    clip: Mapping[str, Any] | None = None,
    where: str = "",
    keep: int | None = None,
) -> Recipe:
    """`base` with the steps that flags ask for. A step that it has takes the flags' options; others are put where ORDER
    has them. Raises UsageError."""
    steps = list(base.steps) if base is not None else []
    stands_for = _built_in(quantize)
    added = [step for step in stands_for.steps if step.name not in {s.name for s in steps}]
    if quantize is not None and any(step.name == "quantize" for step in steps):
        raise UsageError("the recipe has a quantize step of its own", where="--quantize", hint="give one of the two")
    added += [Step(name, dict(given)) for name, given in (("prune", prune), ("clip", clip)) if given is not None]
    if clip is not None and not any(step.name == "dead-weights" for step in steps):
        added.append(Step("dead-weights"))
    steps = merged(steps, added)
    if not steps:
        raise UsageError("there is nothing to do", hint="give --recipe, --quantize, --prune or --clip")
    steps = _with(steps, "keep", keep, "--keep-worst", only="quantize") if keep is not None else steps
    steps = _with(steps, "where", where, "--where") if where else steps
    targets = {**(base.targets if base is not None else {}), **stands_for.targets}
    return _rechecked(replace(base or Recipe(), steps=tuple(steps), targets=targets))


def _built_in(kind: str | None) -> Recipe:
    """The recipe that --quantize KIND stands for."""
    if kind is None:
        return Recipe()
    if kind not in KINDS:
        raise UsageError(f"there is no quantization {kind!r}", where="--quantize", hint=_near(kind, KINDS))
    return find_recipe(KINDS[kind])


def _rank(step: Step) -> int:
    return ORDER.index(step.name) if step.name in ORDER else len(ORDER)


def _with(steps: Sequence[Step], option: str, value: Any, flag: str, only: str = "") -> list[Step]:
    """Every lossy step that has the option gets it. Raises UsageError when none has."""
    takes = [only in ("", step.name) and is_lossy(step) and option in find_pass(step.name).options for step in steps]
    if not any(takes):
        raise UsageError(f"no step takes {option}: {print_pipeline(steps)}", where=flag)
    return [
        Step(step.name, {**step.options, option: value}) if yes else step
        for step, yes in zip(steps, takes, strict=True)
    ]


def _rechecked(recipe: Recipe) -> Recipe:
    """The options of all steps in their declared types. Raises UsageError."""
    made = []
    for step in recipe.steps:
        found = find_pass(step.name)
        options = found.check_options(step.options)
        for key, value in options.items():
            options |= _option(found, key, value)
        made.append(Step(step.name, options))
    return replace(recipe, steps=tuple(made))


#: A number or a share of the source's: `4000000`, `27%`.
SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)%")


def most(limit: int | str, of: int) -> int:
    """The number that a budget allows. `limit` has been checked against SHARE."""
    found = SHARE.fullmatch(limit) if isinstance(limit, str) else None
    return int(of * float(found[1]) / 100) if found else int(limit)
