"""One Hypothesis profile for all tests: no deadline (a JIT compiles in the first example), the same examples every time."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "gvae", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gvae")


@pytest.fixture
def cupy():
    """CuPy without a device, in sys.modules for one test: see tests/emulator/cupy_emulated.py."""
    from emulator import cupy_emulated

    with cupy_emulated.installed() as module:
        yield module
