"""The hub of these tests, its address for the scripts, and a photograph."""

import os

import pytest
import skimage.data
from PIL import Image

from hub.layouts import make_repositories
from hub.server import serving


@pytest.fixture(scope="session")
def repositories(tmp_path_factory):
    """The folder of all repositories, and their commits."""
    folder = tmp_path_factory.mktemp("hub")
    return folder, make_repositories(folder)


@pytest.fixture(scope="session")
def hub(repositories):
    with serving(*repositories) as hub:
        yield hub


@pytest.fixture(scope="session")
def environment(hub, tmp_path_factory):
    """The environment of a user whose cache is empty and whose hub is this one."""
    variables = dict(os.environ)
    for name in os.environ:
        if name.upper().startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_")):
            del variables[name]
        if name.lower().endswith("_proxy"):
            del variables[name]
    home = str(tmp_path_factory.mktemp("home"))
    places = {"HF_ENDPOINT": hub.address, "HF_HOME": home, "XDG_CACHE_HOME": home}
    return {**variables, **places, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(skimage.data.astronaut()[:192, 128:320]).save(folder / "portrait.png")
    return folder
