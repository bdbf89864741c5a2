"""One Hypothesis profile for all tests: no deadline (a JIT compiles in the first example), the same examples every time."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gvae", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gvae")
