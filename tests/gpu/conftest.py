"""Tests on a CUDA device: ``make test-gpu``; they skip where there is none."""

import warnings

import pytest
import torch


@pytest.fixture(autouse=True)
def cuda():
    """Skip without a device; leave the counter of waits off."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.synchronize()
    yield torch.device("cuda")
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def waits(cuda):
    """Return a function that counts how often some work makes the host wait for the device."""

    def count(work):
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)

    return count
