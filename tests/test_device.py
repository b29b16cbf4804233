"""The device that a run takes: what it says, and a driver too old for the installed PyTorch.

python -m pytest tests/test_device.py
"""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from common.device import choose_device
from common.files import ROOT

# As PyTorch behaves with such a driver: the GPU is counted, and whatever needs it raises.
OLD_DRIVER = """
import runpy, sys, warnings
import torch

TEXT = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version"
)

def refuse(*_, **__):
    raise RuntimeError(TEXT)

def is_available():
    warnings.warn("CUDA initialization: " + TEXT)
    return False

torch.cuda.device_count = lambda: 1
torch.cuda.is_available = is_available
torch.cuda.init = torch.cuda._lazy_init = torch.cuda.current_device = refuse
torch.cuda.get_device_properties = refuse
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def old_driver(monkeypatch):
    def refuse():
        raise RuntimeError("The driver is too old (version 11040). Please update it")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", refuse)


def test_an_old_driver_means_the_cpu_and_one_line(old_driver, capsys):
    assert choose_device(None) == "cpu"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "device: cpu: PyTorch cannot use the GPU (The driver is too old (version"
    )
    assert "update the GPU's driver, or install a PyTorch for it: https://" in line


def test_an_old_driver_refuses_its_gpu(old_driver, capsys):
    with pytest.raises(ValueError, match=r"machine has cpu \(PyTorch cannot use the GPU \(The dri"):
        choose_device("cuda")
    assert choose_device("cpu") == "cpu" and capsys.readouterr().err == ""


@pytest.mark.parametrize(("cuda", "said"), [("13.0", "no GPU was found"), (None, "without GPUs")])
def test_no_gpu_is_said(cuda, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose_device(None) == "cpu"
    assert said in capsys.readouterr().err


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


def run_with_old_driver(folder, *argv):
    script = folder / "old_driver.py"
    script.write_text(OLD_DRIVER, encoding="utf-8")
    command = [sys.executable, str(script), *argv]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_command_of_the_demo_runs_with_an_old_driver(photo, tmp_path):
    argv = ["--data_root", str(photo.parent), "--output", str(tmp_path / "runs")]
    quick = ["--N", "1", "--prompt", "a barn", "--metrics", "clip"]
    done = run_with_old_driver(tmp_path, "eval_PICS.py", *argv, *quick)
    assert done.returncode == 0, done.stderr
    about = [line for line in done.stderr.splitlines() if "driver" in line]
    assert len(about) == 1 and about[0].startswith("device: cpu: PyTorch cannot use the GPU (The ")
    assert "Traceback" not in done.stderr and "CUDA initialization" not in done.stderr
