"""Most of these tests' time is the compiler's, and none of them is of machine code."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(quick_code):
    """Before any other fixture of a module."""
