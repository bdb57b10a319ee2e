"""Options and fixtures for all tests."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("golden")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what the code makes into tests/golden, show the diff"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Property tests are about results: how long an example takes says how busy the machine is."""
    from hypothesis import HealthCheck, settings

    settings.register_profile("anyir", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("anyir")


class Golden:
    """Compares text with a file below tests/golden, or rewrites the file when asked to."""

    def __init__(self, update: bool) -> None:
        self.update = update

    def check(self, name: str, actual: str) -> None:
        path = GOLDEN / name
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        if actual == expected:
            return
        lines = (expected.splitlines(keepends=True), actual.splitlines(keepends=True))
        shown = "".join(difflib.unified_diff(*lines, fromfile=f"golden/{name}", tofile="now"))
        if not self.update:
            pytest.fail(f"{shown}\nIf this is right: pytest --update-golden", pytrace=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(actual, encoding="utf-8")
        print(shown)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.config.getoption("--update-golden"))
