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
from pathlib import Path

import click

from .. import __version__
from ..ir.errors import AnyIRError, clean

#: verb -> one line for `irc --help`; the code is in driver/<verb>.py as `command`.
VERBS = {
    "compile": "Convert and optimise a model, and check that the numbers held.",
    "opt": "Run passes on a model and show or save the IR.",
    "run": "Run a model on inputs, on the reference kernels or an installed runtime.",
    "verify": "Compare two models of any formats on the same inputs.",
    "inspect": "Show inputs, outputs, ops, weights, and what each backend would refuse.",
    "passes": "List passes and their options, or print an -O level's pipeline.",
    "ops": "Print the support matrix of ops and backends.",
    "explain": "Explain an error code, or why a rewrite rule did not match.",
    "doctor": "Show what is installed and whether it works together.",
}

ERROR_LIMIT = 8192
INTERNAL = 70


class LazyVerbs(click.Group):
    """A group whose commands are imported when they are called or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(f".{name}", __package__).command

    def resolve_command(self, ctx: click.Context, args: list[str]):
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


def main() -> None:
    """Entry point of the `irc` command: runs it and exits with the documented code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = cli.main(prog_name="irc", standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        code = _usage(error)
    except (click.Abort, KeyboardInterrupt):
        _die_of(signal.SIGINT)
    except BrokenPipeError:
        # Who read our answer has gone; nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except AnyIRError as error:
        code = report_error(error)
    except MemoryError:
        code = _say("F110", "out of memory", "close other programs, or compile with smaller --shape", 4)
    except OSError as error:
        code = _say("F100", clean(f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")), "", 4)
    except Exception as error:
        code = _internal(error)
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: object) -> None:
    """SIGTERM unwinds like Ctrl-C, so that whatever was begun is removed."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _die_of(number: signal.Signals) -> None:
    """End by the signal itself, after everything was cleaned up."""
    pending = sys.exc_info()[1]
    if isinstance(pending, KeyboardInterrupt) and pending.args:
        number = signal.Signals(pending.args[0])
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def report_error(error: AnyIRError) -> int:
    """`irc: error[CODE]: WHERE: what; hint` on stderr; the exit code."""
    if os.environ.get("IRC_DEBUG"):
        traceback.print_exception(error)
    return _say(error.code, str(error), "", error.exit_code)


def _say(code: str, text: str, hint: str, exit_code: int) -> int:
    shown = clean(f"irc: error[{code}]: {text}{'; ' + hint if hint else ''}", ERROR_LIMIT)
    sys.stderr.write(shown + "\n")
    return exit_code


def _usage(error: click.ClickException) -> int:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else "irc --help"
    return _say("R001", message.rstrip("."), f"see {hint}", 2)


def _internal(error: Exception) -> int:
    """Our bug: one line, and a file with everything that helps."""
    if os.environ.get("IRC_DEBUG"):
        traceback.print_exception(error)
    folder = Path(tempfile.mkdtemp(prefix="irc-crash-"))
    text = "".join(traceback.format_exception(error))
    (folder / "report.txt").write_text(f"anyir {__version__}\n{' '.join(sys.argv)}\n\n{text}", encoding="utf-8")
    what = f"internal error in anyir {__version__}: {type(error).__name__}: {clean(error)}"
    return _say("X001", what, f"please report it with {folder / 'report.txt'}", INTERNAL)


if __name__ == "__main__":
    main()
