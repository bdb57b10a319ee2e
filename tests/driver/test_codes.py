"""Every error code that the package uses has a page, and every page is used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyir
from anyir.driver.codes import CODES

ROOT = Path(anyir.__file__).parent
LAYERS = ("ir", "formats", "kernels", "passes", "frontends", "backends", "runtimes", "compress", "driver")
CODE = re.compile(r'"([A-Z]\d{3})"')


def codes_used() -> dict[str, list[str]]:
    """Code -> the files in which it stands as a string."""
    found: dict[str, list[str]] = {}
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            if path.name == "codes.py":
                continue
            for code in CODE.findall(path.read_text(encoding="utf-8")):
                found.setdefault(code, []).append(str(path.relative_to(ROOT)))
    return {code: files for code, files in found.items() if code[0] in "URNFMDX"}


def test_every_code_has_a_page() -> None:
    used = codes_used()
    assert {code: files for code, files in used.items() if code not in CODES and code != "X000"} == {}
    assert sorted(set(CODES) - set(used)) == []


def test_every_page_is_shown(irc: Any) -> None:
    for code, page in CODES.items():
        done = irc("explain", code.lower())
        assert done.code == 0
        assert done.out.startswith(f"{code}: {page.title}\n")
        assert all(len(line) <= 120 for line in done.out.splitlines())
        assert page.example in done.out


def test_hints_name_real_options() -> None:
    """`--something` in a message or a page is an option of some verb."""
    from anyir.driver.cli import VERBS, cli

    known = {"--help"}
    for verb in VERBS:
        known.update(o for p in cli.get_command(None, verb).params for o in (*p.opts, *p.secondary_opts))  # type: ignore
    option = re.compile(r"--[a-z][a-z-]+[a-z]")
    pages = [text for page in CODES.values() for text in page]
    hints = [
        text
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
        for text in re.findall(r'hint=f?"([^"]*)"', path.read_text(encoding="utf-8"))
    ]
    shown = [text for text in (*pages, *hints) if "pip " not in text]
    assert {name for text in shown for name in option.findall(text)} - known == set()
