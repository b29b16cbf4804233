"""`pip install .` installs the scripts' modules with their data, and nothing else.

python -m pytest tests/test_install.py
"""

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = (
    "benchmarks/",
    "docs/",
    "notebooks/",
    "recon_examples/",
    "results/",
    "scripts/",
    "spaces/",
    "tests/",
)
EXTRAS = {"train", "annotators", "demo", "dev", "notebook", "shards", "cluster"}
BUILD = """
import sys
from setuptools import build_meta
build_meta.build_wheel(sys.argv[1])
"""


def tracked() -> list[str]:
    """The files of the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def named(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built, offline, of copies of the files, so that nothing is left beside them."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(ROOT / name)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", BUILD, folder]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_a_wheel_holds_the_modules_and_their_data(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    of_packages = [name for name in tracked() if "/" in name or name.endswith(".py")]
    wanted = {name for name in of_packages if not name.startswith((*LEFT_OUT, ".", "docs"))}
    assert {name for name in wanted if not name.endswith(".md")} == held


def test_a_wheel_asks_for_what_the_requirements_files_say(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    asked = metadata.get_all("Requires-Dist")
    base = {named(requirement) for requirement in asked if "extra ==" not in requirement}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert base == {named(line) for line in lines if not line.startswith("#")}
    assert set(metadata.get_all("Provides-Extra")) == EXTRAS
    compressai = [requirement for requirement in asked if requirement.startswith("compressai")]
    assert compressai and all("extra ==" in requirement for requirement in compressai)
