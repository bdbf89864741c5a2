"""Thread counts of the BLAS are changed for a block only, and never against the user's choice."""

from __future__ import annotations

import pytest

from gvae import blas


def test_threads_are_put_back(monkeypatch):
    library = blas.find_openblas()
    if library is None:
        pytest.skip("NumPy runs on another BLAS here")
    for name in blas.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = library.get_threads()
    library.set_threads(2)
    with blas.threads(1):
        assert library.get_threads() == 1
    assert library.get_threads() == 2
    with pytest.raises(ZeroDivisionError), blas.threads(1):
        1 / 0  # noqa: B018
    assert library.get_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with blas.threads(1):
        assert library.get_threads() == 2  # the user has chosen
    library.set_threads(before)
    assert library.kernel_type().decode()
