"""The instruments that the options of `irc compile` and `irc opt` ask for, and the tables that they have at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..ir.errors import UsageError
from .options import near
from .screen import Screen

if TYPE_CHECKING:
    from collections import Counter

    from ..passes.manager import Instrument

_ASKING = (
    "print_ir_before",
    "print_ir_after",
    "dump_dir",
    "verify_each",
    "check_numerics",
    "time_passes",
    "stop_after",
    "reproducer",
)


@dataclass
class Watch:
    """Instruments in the order in which they hear of a pass."""

    instruments: list[Instrument] = field(default_factory=list)
    timer: Any = None
    stats: bool = False

    def show(self, counts: Counter[str], screen: Screen) -> None:
        """Tables of times and counts on stderr, where they were asked for."""
        if self.timer is not None:
            timed = self.timer
            rows = [(n, f"{s:.3f}", timed.runs[n], timed.changes[n]) for n, s in timed.seconds.items()]
            screen.table(("pass", "CPU s", "runs", "changed"), rows, sys.stderr)
        if self.stats or screen.verbosity >= 2:
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            screen.table(("rule", "fired"), ranked, sys.stderr)


def pipeline_of(options: dict[str, Any]) -> str:
    """The pipeline that will run: --passes, else the level's."""
    from ..passes.presets import preset

    return preset(options["level"]) if options["passes"] is None else options["passes"]


def watch(options: dict[str, Any], inputs: Any = None) -> Watch:
    """Build instruments from the values of `pass_options`; `inputs` are the arrays of --check-numerics. Imports only
    what is asked for. Raises UsageError for a pass that is not in the pipeline."""
    made = Watch(stats=options["stats"])
    if not any(options[name] for name in _ASKING) and options["bisect_limit"] is None:
        return made
    from ..passes import instrument as kinds

    _check_names(options)
    add = made.instruments.append
    if options["bisect_limit"] is not None:
        add(kinds.BisectLimit(options["bisect_limit"]))
    if options["reproducer"]:
        add(kinds.Reproducer(options["reproducer"]))
    if options["print_ir_before"] or options["print_ir_after"]:
        before, after = frozenset(options["print_ir_before"]), frozenset(options["print_ir_after"])
        add(kinds.PrintIR(before, after, options["elide_weights"], options["ir_scope"]))
    if options["dump_dir"]:
        add(kinds.DumpDir(options["dump_dir"], options["elide_weights"]))
    if options["time_passes"]:
        made.timer = kinds.TimePasses()
        add(made.timer)
    if options["verify_each"]:
        add(kinds.VerifyEach())
    if options["check_numerics"]:
        add(kinds.CheckNumerics(inputs))
    if options["stop_after"]:
        add(kinds.StopAfter(options["stop_after"]))
    return made


def _check_names(options: dict[str, Any]) -> None:
    """Passes that are to be watched must run."""
    import re

    from ..passes.manager import pass_names

    names = pass_names(pipeline_of(options))
    stop = [options["stop_after"]] if options["stop_after"] else []
    asked: tuple[tuple[str, Sequence[str], tuple[str, ...]], ...] = (
        ("--print-ir-before", options["print_ir_before"], ("all",)),
        ("--print-ir-after", options["print_ir_after"], ("all", "changed")),
        ("--stop-after", stop, ()),
    )
    for option, given, more in asked:
        for name in given:
            if name not in (*names, *more):
                hint = near(name, [*names, *more], f"it runs: {', '.join(names) or 'nothing'}")
                raise UsageError(f"the pipeline has no pass {name!r}", where=option, hint=hint)
    try:
        re.compile(options["ir_scope"])
    except re.error as error:
        raise UsageError(f"not a regular expression: {error}", where="--ir-scope") from None
