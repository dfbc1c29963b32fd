"""The garbage collector is paused, and is afterwards what it was before."""

from __future__ import annotations

import gc

import pytest

from rcnn.metrics.collection import garbage_stays


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_on_again_only_if_it_was_on(before: bool) -> None:
    if not before:
        gc.disable()
    try:
        with garbage_stays():
            assert not gc.isenabled()
            with garbage_stays():
                pass
            assert not gc.isenabled()
        assert gc.isenabled() == before
        with pytest.raises(ZeroDivisionError), garbage_stays():
            gc.collect(1 // 0)
        assert gc.isenabled() == before
    finally:
        gc.enable()
