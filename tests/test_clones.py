"""A clone whose text has the line ends of Windows reads other clones' files, and they its.

python -m pytest tests/test_clones.py
"""

import dataclasses
import shutil
import subprocess

import pytest

from codec import Decoder
from color_codec import model
from common.files import ROOT
from diffusion.loading import weights_name
from models_ntc.bundled import StreamLayers
from presets import PRESETS

HASHED = ("tiny/bundle/generator", "tiny/bundle/controlnet", "color_codec/tables.json")


def git(folder, *words):
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True)


def clone(folder, attributes):
    """Clone what is hashed as Git does on Windows, with the project's .gitattributes or without."""
    origin = folder / "origin"
    for name in HASHED:
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, origin / name)
    if attributes:
        shutil.copy(ROOT / ".gitattributes", origin)
    git(origin, "init")
    git(origin, "add", "--all")
    git(origin, "commit", "--message", "hashed files")
    git(folder, "clone", "--config", "core.autocrlf=true", "origin", "clone")
    return folder / "clone"


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    return clone(tmp_path_factory.mktemp("windows"), attributes=False)


def test_the_fingerprint_is_that_of_other_clones(windows, monkeypatch):
    assert b"\r\n" in (windows / "tiny/bundle/generator/unet/config.json").read_bytes()
    assert b"\r\n" in (windows / "color_codec/tables.json").read_bytes()
    ours = Decoder(PRESETS["tiny"])
    row = dataclasses.replace(
        PRESETS["tiny"],
        generator=(str(windows / "tiny/bundle/generator"),),
        controlnet=(str(windows / "tiny/bundle/controlnet"),),
    )
    theirs = Decoder(row)
    expected = []
    kinds = [
        StreamLayers(),
        StreamLayers(1),
        StreamLayers(2),
        StreamLayers(1, color=True),
        StreamLayers(2, base=True),
    ]
    for layers in kinds:
        expected.append(ours.fingerprint(layers))
    monkeypatch.setattr(model, "TABLES", windows / "color_codec/tables.json")
    for layers in kinds:
        assert theirs.fingerprint(layers) == expected.pop(0)
    assert expected == []


def test_line_ends_within_weights_count(tmp_path):
    names = set()
    for content in (b"a\r\nb", b"a\nb"):
        (tmp_path / "weights.safetensors").write_bytes(content)
        names.add(weights_name(str(tmp_path), []))
    assert len(names) == 2


def test_git_leaves_the_hashed_files_as_they_are(tmp_path):
    copy = clone(tmp_path, attributes=True)
    for name in HASHED:
        files = [ROOT / name]
        if (ROOT / name).is_dir():
            files = [path for path in (ROOT / name).rglob("*") if path.is_file()]
        for path in files:
            assert (copy / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
