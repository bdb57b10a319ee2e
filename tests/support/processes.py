"""Child processes for tests."""

from __future__ import annotations

import signal


def default_signals() -> None:
    """As `preexec_fn`: the child takes signals as usual, even where the tests run under nohup or in the background."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
