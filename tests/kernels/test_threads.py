"""BLAS in one thread, for the time of a block."""

from __future__ import annotations

import threading

import pytest
from anyir.kernels.threads import blas, one_thread

library = blas()
pytestmark = pytest.mark.skipif(library is None, reason="numpy's BLAS has no call for its threads")


@pytest.fixture(autouse=True)
def two_threads():
    """Two, whatever the machine and its environment say."""
    assert library is not None
    before = library.get()
    library.set(2)
    yield
    library.set(before)


def threads() -> int:
    assert library is not None
    return library.get()


def test_one_inside_and_as_before_behind() -> None:
    with one_thread():
        assert threads() == 1
        with one_thread():
            assert threads() == 1
        assert threads() == 1
    assert threads() == 2


def test_what_fails_inside_leaves_it_as_it_was() -> None:
    @one_thread()
    def fails() -> None:
        assert threads() == 1
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fails()
        assert threads() == 2


def test_blocks_that_overlap_in_two_threads() -> None:
    """The first to enter leaves first: the number comes back with the last one."""
    inside, go = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            inside.set()
            go.wait(10)

    worker = threading.Thread(target=other)
    with one_thread():
        worker.start()
        assert inside.wait(10)
    assert threads() == 1
    go.set()
    worker.join()
    assert threads() == 2
