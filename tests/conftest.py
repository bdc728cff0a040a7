"""Settings that hold for every test."""

from hypothesis import HealthCheck, settings

# No deadlines: a slow machine is not a defect. Derandomised: a suite gives the same verdict on the same code.
settings.register_profile("ai8x", deadline=None, max_examples=50, derandomize=True, print_blob=True,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ai8x")
