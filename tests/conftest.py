"""What all tests need."""

import os
import signal
import tempfile

import pytest
import torch

# Shells start background jobs with Ctrl-C ignored, and what they start inherits that: tests of
# Ctrl-C need it back.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What runs keep between them in the user's cache (diffusion/content.py), those of subprocesses too.
ASSETS = tempfile.TemporaryDirectory()
os.environ["HF_ASSETS_CACHE"] = ASSETS.name


@pytest.fixture(scope="module")
def one_thread():
    """Networks as small as those of tests are slowed by threads, tenfold on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ray_nodes():
    """What Ray's nodes and actors need of the environment."""
    from helpers.ray_runs import ray_environment

    with ray_environment():
        yield


@pytest.fixture
def threads_restored():
    """Bring back the number of threads that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
