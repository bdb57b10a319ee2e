"""The `irc` command: finds the verb, parses arguments, turns errors into one line and an exit code.

Imports click and nothing heavier; each verb's file is loaded when the verb is called.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from .. import __version__
from ..ir.errors import AnyIRError, clean

#: verb -> one line for `irc --help`; the code is in driver/<verb>.py as `command`.
VERBS = {
    "compile": "Convert and optimise a model, and check that the numbers held.",
    "compress": "Quantise, prune or clip a model by a recipe, and measure what it loses.",
    "distill": "Train a smaller model to say what a larger one says, in torch, and write it.",
    "recipes": "List the built-in recipes, show one, or print the JSON Schema of recipe files.",
    "opt": "Run passes on a model and show or save the IR.",
    "run": "Run a model on inputs, on the reference kernels or an installed runtime.",
    "verify": "Compare two models of any formats on the same inputs.",
    "diff": "Show what changed between two models: interface, ops, weights, sizes, costs.",
    "inspect": "Show inputs, outputs, ops, weights, costs, and what each backend would refuse.",
    "passes": "List passes and their options, or print an -O level's pipeline.",
    "ops": "Print the support matrix of ops and backends.",
    "explain": "Explain an error code, or why a rewrite rule did not match.",
    "doctor": "Show what is installed and whether it works together.",
}

ERROR_BYTES = 8192
USAGE, SYSTEM, INTERNAL = 2, 4, 70


class LazyVerbs(click.Group):
    """A group whose commands are imported when they are called or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(f".{name}", __package__).command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in VERBS and not name.startswith("-"):
            near = difflib.get_close_matches(name, VERBS, 1)
            hint = f"did you mean {near[0]}?" if near else f"verbs: {', '.join(VERBS)}"
            raise click.UsageError(f"there is no verb {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyVerbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="irc")
def cli() -> None:
    """irc: any model in, any model out.

    \b
    irc compile model.keras -o model.tflite     convert, optimise, verify
    irc inspect model.onnx                      look inside
    irc verify model.onnx model.tflite          compare two models
    """


def main() -> NoReturn:
    """Entry point of the `irc` command: runs it and exits with the documented code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _unwind)
    if not os.environ.get("IRC_DEBUG"):
        warnings.simplefilter("ignore")  # numpy's and others' remarks about numbers in the user's model
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if "_IRC_COMPLETE" in os.environ:
        cli.main(prog_name="irc")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. A signal ends the process, after everything was cleaned up."""
    try:
        with cli.make_context("irc", list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort) as error:
        _die_of(error.args[0] if error.args else signal.SIGINT)
    except BrokenPipeError:
        _die_of(signal.SIGPIPE)  # who read our answer has gone
    except AnyIRError as error:
        return report_error(error)
    except MemoryError:
        return _say("F110", "out of memory; close other programs, or give a smaller --shape", SYSTEM)
    except OSError as error:
        return _say("F100", f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), SYSTEM)
    except Exception as error:
        return _internal(error, arguments)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    """A signal unwinds like Ctrl-C, so that whatever was begun is removed; a second one does not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number))


def _die_of(number: signal.Signals) -> NoReturn:
    """End by the signal itself."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)  # for a signal that is blocked


def report_error(error: AnyIRError) -> int:
    """`irc: error[CODE]: WHERE: what; hint` on stderr; the exit code."""
    if os.environ.get("IRC_DEBUG"):
        traceback.print_exception(error)
    return _say(error.code, str(error), error.exit_code)


def _say(code: str, text: str, exit_code: int) -> int:
    """One error on stderr, at most ERROR_BYTES of it, nothing in it that a terminal would obey."""
    shown = clean(f"irc: error[{code}]: {text}", ERROR_BYTES, lines=True).encode("utf-8", "backslashreplace")
    if len(shown) >= ERROR_BYTES:
        shown = shown[: ERROR_BYTES - 4] + b"..."
    sys.stderr.write(shown.decode("utf-8", "ignore") + "\n")
    return exit_code


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(error.format_message() + "\n")
        return USAGE
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "irc"
    return _say("R001", f"{error.format_message().rstrip('.')}; see {path} --help", USAGE)


def _internal(error: Exception, arguments: Sequence[str]) -> int:
    """Our bug: one line, and a file with everything that helps."""
    if os.environ.get("IRC_DEBUG"):
        traceback.print_exception(error)
    text = f"anyir {__version__}\nirc {' '.join(arguments)}\n\n{''.join(traceback.format_exception(error))}"
    try:
        report = Path(tempfile.mkdtemp(prefix="irc-crash-")) / "report.txt"
        report.write_text(text, encoding="utf-8", errors="backslashreplace")
        remedy = f"please report it with {report}"
    except OSError:
        remedy = "please report it; IRC_DEBUG=1 shows where it happened"
    what = f"internal error in anyir {__version__}: {type(error).__name__}: {clean(error, 400)}"
    return _say("X001", f"{what}; {remedy}", INTERNAL)


if __name__ == "__main__":
    main()
