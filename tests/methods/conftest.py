"""The platforms whose forms run on the CPU."""

import jax
import pytest


@pytest.fixture(params=["cpu", "accelerator"])
def platform(request, monkeypatch):
    """Runs a test with the form of jitter and blur for CPUs and with the one for GPUs and TPUs."""
    if request.param == "accelerator":
        chosen = lambda *args, default, **others: default(*args)  # noqa: E731
        monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
