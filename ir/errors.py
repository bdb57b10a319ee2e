"""The one exception hierarchy of anyir.

Every error that a user can meet is an `AnyIRError`: a stable code, what is wrong, where, and what to try next. The
command line turns it into one line and an exit code. A library caller catches the class. Imports nothing.
"""

from __future__ import annotations

NAME_LIMIT = 200


def clean(text: object, limit: int = NAME_LIMIT, *, lines: bool = False) -> str:
    """`text` cut to `limit` characters with control, escape and bidi characters made visible (names come from files).
    Line ends are kept only where `lines` says so: a name cannot start a line of its own."""
    raw = str(text)
    if len(raw) <= limit and raw.isprintable():
        return raw
    kept = "\n" if lines else ""
    seen = raw[: limit + 1]
    shown = "".join(c if c in kept or c.isprintable() else c.encode("unicode_escape").decode() for c in seen)
    return shown if len(raw) <= limit else shown[:limit] + "..."


class AnyIRError(Exception):
    """Base of all errors. `where` names the place (file, node, line); `hint` is the remedy."""

    code = "X000"
    exit_code = 70

    def __init__(self, message: str, *, code: str | None = None, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{clean(self.where, 600)}: " if self.where else ""
        hint = f"; {self.hint}" if self.hint else ""
        first, newline, picture = self.message.partition("\n")
        return f"{place}{first}{hint}{newline}{picture}"

    def at(self, where: str) -> AnyIRError:
        """The same error with `where` put before the place that it already names."""
        self.where = f"{where}: {self.where}" if self.where else where
        return self


class UsageError(AnyIRError):
    """A wrong option, argument, pipeline text or recipe."""

    code, exit_code = "R001", 2


class InvalidModel(AnyIRError):
    """The input is broken: truncated, inconsistent, or not what its name says."""

    code, exit_code = "F001", 3


class TypeInferError(InvalidModel):
    """Operands and attributes that do not fit an op (shapes, dtypes, ranges)."""

    code = "F010"


class InvalidData(AnyIRError):
    """Samples for calibration or evaluation that cannot be read, do not fit the model, or are not finite."""

    code, exit_code = "F300", 3


class Unsupported(AnyIRError):
    """A valid input that cannot be expressed: an op, dtype or feature that is missing on one side."""

    code, exit_code = "U001", 3


class LimitExceeded(AnyIRError):
    """A declared size, depth or count above its limit (`storage.LIMITS`; `--limit NAME=N` changes one)."""

    code, exit_code = "M001", 3


class SystemFailure(AnyIRError):
    """The system said no: cannot read, cannot write, disk full, out of memory."""

    code, exit_code = "F100", 4


class MissingPackage(AnyIRError):
    """An optional package is needed and not installed."""

    code, exit_code = "D001", 5


class NumericsError(AnyIRError):
    """A comparison that was asked for came out negative."""

    code, exit_code = "N001", 1


class InternalError(AnyIRError):
    """Our bug."""

    code, exit_code = "X001", 70


class VerifyError(InternalError):
    """IR that breaks an invariant: a pass, an importer or a hand-built graph made it."""

    code = "X002"


class PassError(InternalError):
    """A pass raised, broke the IR, or did not come to an end."""

    code = "X003"
