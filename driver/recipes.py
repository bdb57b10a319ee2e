"""`irc recipes`: what can stand in --recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from .screen import Screen

COLUMNS = ("recipe", "steps", "what")


@click.command("recipes")
@click.argument("name", required=False)
@shared.load_option
@shared.screen_options
def command(**given: Any) -> None:
    """List the built-in recipes, show the text of recipe NAME, or print the JSON Schema of recipe files.

    \b
    irc recipes int8 > mine.yaml        start from a built-in one
    irc recipes schema > recipe.json    for editors that check YAML
    """
    with shared.session("recipes", given) as screen:
        if given["name"] == "schema":
            _schema(screen)
        elif given["name"]:
            _one(given["name"], screen)
        else:
            _all(screen)


def _all(screen: Screen) -> None:
    from ..compress.recipe import find_recipe, names

    found = [find_recipe(name) for name in names()]
    rows = [(recipe.name, recipe.pipeline, recipe.description) for recipe in found]
    screen.table(COLUMNS, rows)
    screen.answer("recipes", {"recipes": [dict(zip(COLUMNS, row, strict=True)) for row in rows]})


def _one(name: str, screen: Screen) -> None:
    from ..compress.recipe import FOLDER, find_recipe, names

    recipe = find_recipe(name)
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8") if name in names() else ""
    screen.line(text.rstrip() or recipe.pipeline)
    about = {"name": recipe.name, "description": recipe.description, "steps": recipe.pipeline}
    screen.answer("recipes", {**about, "text": text or recipe.text})


def _schema(screen: Screen) -> None:
    import json

    from ..compress.schema import json_schema

    made = json_schema()
    screen.line(json.dumps(made, indent=2))
    screen.answer("recipes", {"json_schema": made})
