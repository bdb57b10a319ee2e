"""The form of a recipe file, for pydantic: what keys there are, of which types, and the JSON Schema for editors.

Imported only when a recipe is read or its schema printed: pydantic costs a fifth of a second.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..passes.manager import Pass, all_pass_names, find_pass
from .recipe import FUNCTION, SCHEMA, SHARE, choices


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=False)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _bound(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or (isinstance(value, int) and value < 0):
        raise ValueError("should be a number of at least 0 or a share such as 27%")
    if isinstance(value, str) and not SHARE.fullmatch(value):
        raise ValueError("should be a number of at least 0 or a share such as 27%")
    return value


def _file(value: Any) -> Any:
    if isinstance(value, str) and FUNCTION.fullmatch(value):
        raise ValueError("should be a file or folder; recipes never run Python, give functions with --data")
    return value


FilePath = Annotated[str, AfterValidator(_file)]
Count = Annotated[int, BeforeValidator(_no_bool)]
Bound = Annotated[int | str | None, BeforeValidator(_bound)]
Real = Annotated[float | None, BeforeValidator(_no_bool)]


class DataPart(_Strict):
    """Calibration and evaluation samples."""

    source: FilePath | None = Field(default=None, description="a .npz file, or a folder of .npy or image files")
    preprocess: str | dict[str, Any] | None = Field(
        default=None, description="how images become inputs: resize, crop, mean, std"
    )
    count: Count = Field(default=200, ge=1, le=1_000_000, description="samples to calibrate with")
    evaluation: FilePath | Count | None = Field(
        default=None, description="what to measure on: a source, or how many of the rest"
    )
    seed: Count = Field(default=0, ge=0)


class LimitsPart(_Strict):
    """What the loss may be; the command ends with exit code 1 and writes nothing when it is more."""

    drop: Real = Field(
        default=None, ge=0, le=100, description="percentage points of accuracy, or of agreement without labels"
    )
    agreement: Real = Field(default=None, ge=0, le=1, description="least share of equal top-1 answers")
    cosine: Real = Field(default=None, ge=-1, le=1)
    sqnr: Real = Field(default=None, description="least signal to noise ratio of every output in dB")
    max_abs: Real = Field(default=None, ge=0)


class BudgetPart(_Strict):
    """What the result may cost: a number, or a share of the source's."""

    file: Bound = Field(default=None, description="bytes of the written files")
    weights: Bound = Field(default=None, description="bytes of the weights")
    macs: Bound = Field(default=None, description="multiply-accumulates of one run")


class StepPart(BaseModel):
    """One pass; every other key is an option of it."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str = Field(alias="pass")


def _known(version: int) -> int:
    if version != SCHEMA:
        raise ValueError(f"should be {SCHEMA}, the only version there is")
    return version


class RecipeFile(_Strict):
    """A recipe."""

    schema_: Annotated[int, BeforeValidator(_no_bool), AfterValidator(_known)] = Field(alias="schema")
    description: str = ""
    extends: str | None = Field(default=None, description="a built-in recipe, or a file beside this one")
    optimize: Count = Field(default=2, ge=0, le=3, description="the -O level that runs first")
    data: DataPart = Field(default_factory=DataPart)
    steps: list[StepPart] = Field(default_factory=list, max_length=100)
    targets: dict[str, Annotated[list[StepPart], Field(max_length=100)]] = Field(
        default_factory=dict, description="steps and options for an output's format: onnx, tflite ..."
    )
    verify: LimitsPart = Field(default_factory=LimitsPart)
    budget: BudgetPart = Field(default_factory=BudgetPart)


_PARTS: dict[str, type[BaseModel]] = {"data": DataPart, "verify": LimitsPart, "budget": BudgetPart}


def keys_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand at a place of the file."""
    part = _PARTS.get(str(path[0]), RecipeFile) if path else RecipeFile
    return [found.alias or name for name, found in part.model_fields.items()]


_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipe files, with the options of every pass that is known here."""
    made = RecipeFile.model_json_schema(by_alias=True)
    passes = [find_pass(name) for name in all_pass_names()]
    made["$defs"]["StepPart"] = {"oneOf": [_step_schema(found) for found in passes]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "anyir recipe"}


def _step_schema(found: Pass) -> dict[str, Any]:
    options = {key: _option_schema(found, key) for key in found.options}
    needed = [key for key, declared in found.options.items() if declared.default is declared.empty]
    about = found.doc.partition("\n")[0]
    return {
        "type": "object",
        "description": about,
        "properties": {"pass": {"const": found.name}, **options},
        "required": ["pass", *needed],
        "additionalProperties": False,
    }


def _option_schema(found: Pass, key: str) -> dict[str, Any]:
    default = found.options[key].default
    if default is None or default is found.options[key].empty:
        return {}
    told: dict[str, Any] = {"type": _TYPES[type(default)], "default": default} if type(default) in _TYPES else {}
    allowed = choices(found, key)
    return {**told, "enum": list(allowed)} if allowed else told
