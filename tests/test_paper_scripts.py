"""The shell scripts of the paper's experiments: which command they run.

python -m pytest tests/test_paper_scripts.py
"""

import os
import shutil
import subprocess

import pytest

from common.files import ROOT
from models_ntc import lambda_range

AUTHORS = "OneShot_Cheng2020AttentionFull_CLIC_HED_ms_ssim_lmbda0.5.pt"


@pytest.fixture
def project(tmp_path):
    """A project with the scripts alone, whose Python says what it is asked to run."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "models_ntc").mkdir()
    return tmp_path


def commands(project, script, *arguments):
    """The arguments of each command that a script runs, as {flag: value}; the last one counts."""
    done = subprocess.run(
        ["bash", project / "scripts" / script, project, "CLIC2021", *arguments],
        env=os.environ | {"PYTHON": "echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = []
    for line in done.stdout.splitlines():
        name, *words = line.split()
        found.append({"script": name, **dict(zip(words[::2], words[1::2], strict=True))})
    return found


def test_pics_runs_the_papers_settings(project):
    (asked,) = commands(project, "PICS.sh")
    assert asked["script"] == "eval_PICS.py"
    assert (asked["--preset"], asked["--N"], asked["--loss"]) == ("sd21", "4", "clip")
    assert "lpips" in asked["--metrics"]
    low, high = lambda_range()
    assert low < float(asked["--lam_sketch"]) < high


def test_pics_takes_the_authors_codec_if_it_is_there(project):
    (project / "models_ntc" / AUTHORS.replace("0.5", "1.0")).touch()
    (without,) = commands(project, "PICS.sh")
    assert not without["--lam_sketch"].endswith(".pt")
    (project / "models_ntc" / AUTHORS).touch()
    (asked,) = commands(project, "PICS.sh")
    assert asked["--lam_sketch"] == f"models_ntc/{AUTHORS}"


def test_flags_have_the_last_word(project):
    (asked,) = commands(project, "PICS.sh", "--lam_sketch", "0.3")
    assert asked["--lam_sketch"] == "0.3"
    (asked,) = commands(project, "PICS.sh", "--preset", "tiny")
    assert asked["--preset"] == "tiny" and "--lam_sketch" not in asked


@pytest.mark.parametrize("name", ["FID", "KID"])
def test_sets_are_measured_on_the_runs_of_both_methods(project, name):
    """With the settings that PIC.sh and PICS.sh have, so that no image is done again."""
    (project / "train").mkdir()
    both = commands(project, f"{name}.sh", str(project / "train"))
    alone = [*commands(project, "PIC.sh"), *commands(project, "PICS.sh")]
    for asked, before in zip(both, alone, strict=True):
        metrics = asked.pop("--metrics").split(",")
        assert asked.pop("--reference") == str(project / "train")
        assert f"{name.lower()}_folder" in metrics
        assert metrics[:2] == before.pop("--metrics").split(",")
        assert asked == before
