"""The house rules, as a program reads them: layers, lazy imports, sizes, the package list, one identity, a full op matrix."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import anyir
import pytest
from anyir.driver.cli import cli
from anyir.driver.ops import TARGETS, matrix
from anyir.ir.graph import Module
from anyir.ir.opdef import Sample
from anyir.ir.ops import core_ops, get_op
from anyir.kernels.registry import find_kernel
from anyir.tests.support.ops import call, samples_of
from click.testing import CliRunner

ROOT = Path(anyir.__file__).parent

#: Lower layers come first; a module may import from its own layer and from those before it.
LAYERS = (
    ("ir",),
    ("formats", "kernels"),
    ("passes",),
    ("frontends", "backends", "runtimes"),
    ("compress",),
    ("driver",),
)
#: What formats/ may take from ir/: a reader of bytes knows nothing of graphs.
FORMATS_MAY_USE = {"ir.errors", "ir.storage", "ir.outputs", "ir.archive", "ir.types", "ir.dims", "ir.expr", "ir.tensor"}
FRAMEWORKS = {
    "onnx", "torch", "keras", "tensorflow", "mindspore", "numba", "networkx", "h5py", "flatbuffers", "rich", "onnxruntime",
    "ai_edge_litert",
}  # fmt: skip
#: Modules that are tables of data and little else: longer than a file of code may be.
DATA_TABLES: set[str] = set()
FILE_LINES = 600
FUNCTION_LINES = 60
OUTSIDE = {"tests", "benchmarks", "examples", "docs", "build", "anyir.egg-info"}


@functools.cache
def sources() -> dict[str, Path]:
    """Every module of the package by its name without `anyir.`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in OUTSIDE and not any(p.startswith(".") for p in parts):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def top_level(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements that run on import: functions are not entered, nor what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from (s for s in child.orelse)
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from top_level(child)


def imports(name: str, statements: Iterator[ast.AST] | None = None) -> Iterator[tuple[str, int]]:
    """(what, line) of imports: inside the package relative to its root, outside by the first name."""
    path = sources()[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in statements if statements is not None else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module or "", node.lineno
                continue
            base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                yield "anyir." + (inner if inner in sources() else ".".join(base)), node.lineno


def level(name: str) -> int | None:
    head = name.split(".")[0]
    return next((i for i, layer in enumerate(LAYERS) if head in layer), None)


def test_layers() -> None:
    wrong = []
    for name in sources():
        for target, line in imports(name):
            inner = target.removeprefix("anyir.") if target.startswith("anyir.") else None
            mine, other = level(name), level(inner) if inner else None
            if mine is not None and other is not None and other > mine:
                wrong.append(f"{name}:{line} imports {inner}")
    allowed = ALLOWED_UPWARDS
    unexpected = [w for w in wrong if (w.split(":")[0], w.split(" imports ")[1]) not in allowed]
    assert not unexpected, "\n".join(unexpected)


#: Looked up when called, for the user's convenience; the lower layer works without the higher one.
ALLOWED_UPWARDS = {("ir.loading", name) for name in ("formats", "formats.safetensors", "formats.torch_state")}


def test_formats_know_no_graphs() -> None:
    wrong = [
        f"{name}:{line} imports {target}"
        for name in sources()
        if name.startswith("formats")
        for target, line in imports(name)
        if target.startswith("anyir.ir") and target.removeprefix("anyir.") not in FORMATS_MAY_USE | {"ir"}
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_inside_the_package_are_relative() -> None:
    wrong = []
    for name, path in sources().items():
        for node in ast.walk(tree(path)):
            absolute = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                absolute = [node.module or ""]
            wrong += [f"{name}:{node.lineno} {a}" for a in absolute if a.split(".")[0] == "anyir"]
    assert not wrong, "\n".join(wrong)


# --------------------------------------------------------------------------------------------------- lazy imports


def fresh(code: str) -> set[str]:
    """The first names of all modules that a fresh interpreter has after running `code`."""
    script = f"{code}\nimport sys\nprint('MODULES', *sorted({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("MODULES")]
    assert lines, done.stdout + done.stderr
    return set(lines[-1].split()[1:])


HELP = """
import contextlib, sys
sys.argv = ["irc", "--help"]
from anyir.driver.cli import main
with contextlib.suppress(SystemExit):
    main()
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = fresh("import anyir")
    assert not loaded & (FRAMEWORKS | {"numpy", "ml_dtypes", "click", "psutil"})


def test_irc_help_loads_nothing_heavier_than_click() -> None:
    loaded = fresh(HELP)
    assert not loaded & (FRAMEWORKS | {"numpy", "ml_dtypes", "psutil"}) and "click" in loaded


def test_the_core_loads_no_framework() -> None:
    names = [n for n in sources() if n.startswith(("ir", "passes", "kernels")) and not n.endswith("builder")]
    loaded = fresh("import importlib\n" + "\n".join(f"importlib.import_module('anyir.{n}')" for n in names))
    assert not loaded & FRAMEWORKS


@functools.cache
def reached_eagerly() -> frozenset[str]:
    """Modules that `import anyir`, the API, the driver and every frontend, backend and runtime package load at once."""
    pending = [
        "",
        "api",
        *(
            n
            for n in sources()
            if n.count(".") <= 1 and n.split(".")[0] in ("driver", "frontends", "backends", "runtimes")
        ),
    ]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name not in sources():
            continue
        seen.add(name)
        found = [t for t, _ in imports(name, top_level(tree(sources()[name]))) if t.startswith("anyir.")]
        pending += [t.removeprefix("anyir.") for t in found]
        pending += [name.rpartition(".")[0]] if "." in name else []
    return frozenset(seen)


def test_no_framework_is_imported_at_the_top_level() -> None:
    wrong = [
        f"{name}:{line} imports {target}"
        for name in sorted(reached_eagerly())
        for target, line in imports(name, top_level(tree(sources()[name])))
        if target.split(".")[0] in FRAMEWORKS
    ]
    assert not wrong, "\n".join(wrong)


# ----------------------------------------------------------------------------------------------------------- sizes


def test_files_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in sources().items()}
    long = {name: n for name, n in lengths.items() if n > FILE_LINES and name not in DATA_TABLES}
    assert not long, f"more than {FILE_LINES} lines: {long}"


def test_functions_fit_a_screen() -> None:
    long = []
    for name, path in sources().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{name}.{node.name}: {lines} lines")
    assert not long, "\n".join(long)


def test_every_module_says_what_it_is() -> None:
    silent = [
        name for name, path in sources().items() if not ast.get_docstring(tree(path)) and path.stat().st_size > 200
    ]
    assert not silent, silent


def test_nothing_is_left_to_do() -> None:
    wrong = []
    for name, path in sources().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        wrong += [f"{name}:{n} {line}" for n, line in enumerate(lines, 1) for word in ("TODO", "FIXME") if word in line]
        raised = [node.exc for node in ast.walk(tree(path)) if isinstance(node, ast.Raise) and node.exc is not None]
        wrong += [f"{name}:{e.lineno} raises it" for e in raised if "NotImplementedError" in ast.dump(e)]
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------------------ the package


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_package_list_is_complete() -> None:
    listed = set(project()["tool"]["setuptools"]["packages"])
    present = {
        ".".join(["anyir", *name.split(".")]) if name else "anyir"
        for name, p in sources().items()
        if p.name == "__init__.py"
    }
    assert listed == present


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in sources().values()}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_no_tests_are_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("name", [folder for layer in LAYERS for folder in layer])
def test_a_second_identity_is_refused(name: str) -> None:
    """From the root a bare `import ir` would make a second copy of everything."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode and "ImportError: import this package as" in done.stderr


def test_the_front_door_has_the_names_of_the_api() -> None:
    api = importlib.import_module("anyir.api")
    assert set(anyir.__all__) == {*api.__all__, "__version__"}
    assert all(callable(getattr(anyir, name)) for name in api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = anyir.nothing


# -------------------------------------------------------------------------------------------------------- op matrix


NAMES = [op.name for op in core_ops()]


def test_every_op_has_a_kernel_in_the_file_of_its_family() -> None:
    for name in NAMES:
        kernel = find_kernel(name)
        assert kernel is not None, f"{name} has no kernel"
        family = type(get_op(name)).__module__.rpartition(".")[2]
        assert (ROOT / "kernels" / f"{family}.py").exists(), f"kernels/{family}.py"


@pytest.mark.parametrize("target", TARGETS)
def test_every_backend_answers_for_every_op_and_means_it(target: str) -> None:
    """A cell that is filled takes at least one of the op's samples; one that is not refuses all, each with a reason."""
    backend = importlib.import_module(f"anyir.backends.{target}")
    lies = []
    for name in NAMES:
        answer = backend.support(name)
        assert answer in ("direct", "decomposed", "-"), f"{name}: {answer!r}"
        if name in WITHOUT_SAMPLES:
            continue
        modules = [sample_module(name, sample, few) for sample in samples_of(name) for few in (False, True)]
        if answer == "-":
            # A result without elements needs no operator at all: such a sample says nothing about the op.
            modules = [m for m in modules if all(getattr(v.type, "numel", None) != 0 for v in m.main.outputs)]
        refusals = [str(backend.offenders(module)) for module in modules]
        if answer == "-" and "[]" in refusals:
            lies.append(f"{name} is taken")
        if answer != "-" and "[]" not in refusals:
            lies.append(f"{name} is refused: {refusals[0][:200]}")
    assert not lies, "\n".join(lies)


#: Ops with regions have tests of their own.
WITHOUT_SAMPLES = {"call", "if", "loop", "scan"}


def sample_module(name: str, sample: Sample, few: bool) -> Module:
    """One call; `few`: only the first result is used."""
    node, _ = call(name, sample)
    graph = node.graph
    assert graph is not None
    graph.set_outputs(node.results[:1] if few else node.results)
    inputs = [f"x{i}" for i in range(len(graph.inputs))]
    graph.module.add_signature("serving_default", graph, inputs, [f"y{i}" for i in range(len(graph.outputs))])
    return graph.module


@pytest.mark.parametrize("page", [(), ("--from", "onnx")], ids=["matrix", "onnx"])
def test_the_matrices_in_the_docs_are_current(page: tuple[str, ...]) -> None:
    name = f"docs/{page[-1] if page else 'matrix'}.md"
    made = CliRunner().invoke(cli, ["ops", *page, "--markdown"])
    assert made.exit_code == 0
    hint = f"run `irc ops {' '.join(page)} --markdown > {name}`"
    assert (ROOT / name).read_text(encoding="utf-8") == made.stdout, hint


def test_the_matrix_of_irc_ops_is_whole() -> None:
    rows = matrix()
    assert [row[1] for row in rows] == NAMES
    assert all(len(row) == 3 + len(TARGETS) and row[2] == "yes" for row in rows)
