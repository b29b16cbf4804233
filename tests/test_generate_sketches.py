import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from generate_sketches import main, splits

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(6):
        picture = np.full((70, 100, 3), 40, np.uint8)
        cv2.circle(picture, (50, 35), 10 + 3 * number, (200, 120, 60), -1)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def run(folder, out, *more):
    return main(["--data_root", str(folder), "--out", str(out), "--sketch_type", "canny", "--short_side", "64", *more])


def test_sketches_are_written_once_and_split_by_name(photographs, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(photographs, out, "--valid", "0.4") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == 6
    files = {split: sorted(p.name for p in (out / split).iterdir()) for split in ("train", "test")}
    assert len(files["train"]) + len(files["test"]) == 6 and files["train"] and files["test"]
    sketch = np.array(Image.open(out / "train" / files["train"][0]))
    assert sketch.shape == (64, 64) or sketch.shape == (64, 128)
    assert sketch.dtype == np.uint8 and sketch.max() == 255 and (sketch == 0).mean() > 0.5

    removed = out / "train" / files["train"][0]
    removed.unlink()
    assert run(photographs, out, "--valid", "0.4") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == 1
    assert removed.exists()


def test_a_broken_photograph_is_named_and_the_rest_goes_on(photographs, tmp_path, capsys):
    (photographs / "broken.png").write_bytes(b"no picture")
    assert run(photographs, tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "broken.png" in captured.err
    assert json.loads(captured.out.splitlines()[-1]) | {"out": ""} == {
        "out": "",
        "photographs": 7,
        "written": 6,
        "failed": 1,
    }


def test_the_split_follows_the_name_and_is_never_empty():
    names = [f"photograph {number}" for number in range(1000)]
    chosen = splits(names, 0.1)
    assert 60 < chosen.count("test") < 140
    assert splits(names[:500], 0.1) == chosen[:500]
    assert splits(names[:3], 1e-6).count("test") == 1


def test_wrong_usage_is_status_2(tmp_path, capsys):
    assert run(tmp_path / "absent", tmp_path / "out") == 2
    assert "absent" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, tmp_path / "out", "--valid", "2")
    assert stopped.value.code == 2


@pytest.mark.parametrize("script", ["generate_sketches.py", "train_compressai.py"])
def test_help_answers_without_loading_torch(script):
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr
    assert time.monotonic() - started < 5  # a second on a free machine
