"""What is said before models are fetched from the hub, and which of its files they are.

python -m pytest tests/test_hub.py
"""

import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import utils as hub_utils
from transformers.utils import logging as transformers_logging

from diffusion.loading import HALF, NETWORK, STEMS, fetched_variant
from pretrained import hub
from pretrained.model_folders import quietly

MAIN = {f"{stem}.safetensors": 1_000_000_000 for stem in STEMS}
SMALL = {f"{stem}.{HALF}.safetensors": 500_000_000 for stem in STEMS}
BIN = {f"{NETWORK}.bin": 729_000_000, "config.json": 900}


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """Set the files of the only repository, and those that are here."""

    def set_files(files, here=()):
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
        told = SimpleNamespace(siblings=siblings)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: told)
        monkeypatch.setattr(hub, "is_here", lambda name, revision, file: file in here)
        monkeypatch.setattr("diffusion.loading.is_here", hub.is_here)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/cache")
    return set_files


def variant(half=True, local_files_only=False):
    return fetched_variant("sd21", "owner/name", None, local_files_only, half)


@pytest.mark.parametrize(
    ("files", "here", "half", "chosen", "said"),
    [
        (MAIN | SMALL, (), True, HALF, "1.5"),
        (MAIN | SMALL, (), False, None, "3"),
        (MAIN, (), True, None, "3"),
        (MAIN | SMALL, MAIN, True, None, ""),  # nothing has to be fetched
        (MAIN | SMALL, SMALL, True, HALF, ""),
        (MAIN | SMALL, SMALL, False, None, "3"),
        (MAIN | SMALL, list(MAIN)[:1], False, None, "2"),
        (MAIN | dict(list(SMALL.items())[:2]), (), True, None, "3"),  # not of all parts
        ({}, (), True, None, ""),  # not known
    ],
)
def test_files_of_a_pipeline(repository, capsys, files, here, half, chosen, said):
    repository(files, here)
    assert variant(half) == chosen
    line = f"sd21: fetching about {said} GB of owner/name to /cache\n" if said else ""
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("here", "chosen"), [(SMALL, HALF), (MAIN, None), ((), None)])
def test_without_network_what_is_here_is_read(repository, capsys, here, chosen):
    repository({}, here)
    assert variant(local_files_only=True) == chosen
    assert capsys.readouterr().err == ""


def test_a_repository_of_one_old_file(repository, capsys):
    repository(BIN)
    hub.announce_weights("sd21", "owner/name", None, [NETWORK])
    assert capsys.readouterr().err == "sd21: fetching about 0.73 GB of owner/name to /cache\n"
    repository(BIN, here=BIN)
    hub.announce_weights("sd21", "owner/name", None, [NETWORK])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["owner/name", "no name"])
def test_a_hub_that_does_not_tell(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.listing(name, None) == {}


@pytest.mark.parametrize(
    ("hidden", "terminal", "within"), [(1, 1, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1)]
)
def test_the_bars_of_the_hub_are_as_before(monkeypatch, hidden, terminal, within):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: bool(terminal))
    libraries = (diffusers_logging, transformers_logging)
    before = [(each.get_verbosity(), each.is_progress_bar_enabled()) for each in libraries]
    (hub_utils.disable_progress_bars if hidden else hub_utils.enable_progress_bars)()
    try:
        with quietly(*libraries):
            assert hub_utils.are_progress_bars_disabled() == within
            assert not any(each.is_progress_bar_enabled() for each in libraries)
        assert hub_utils.are_progress_bars_disabled() == hidden
        after = [(each.get_verbosity(), each.is_progress_bar_enabled()) for each in libraries]
        assert after == before
    finally:
        hub_utils.enable_progress_bars()
