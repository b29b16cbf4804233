"""generate_sketches.py: layout, splits, resuming, broken images, wrong usage.

python -m pytest tests/test_generate_sketches.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from generate_sketches import MOST_WORKERS, main, splits, useful_workers

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        picture = np.full((70, 100, 3), 40, np.uint8)
        cv2.circle(picture, (50, 35), 10 + 3 * number, (200, 120, 60), -1)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def flags(folder, out, *more):
    common = ["--sketch_type", "canny", "--short_side", "64", "--workers", "1"]
    return ["--data_root", str(folder), "--out", str(out), *common, *more]


def run(folder, out, *more):
    return main(flags(folder, out, *more))


def files(out):
    """Relative path -> bytes of everything under a folder."""
    found = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def summary(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_sketches_are_written_once_and_split_by_name(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(photos, out, "--test", "0.4") == 0
    assert summary(capsys) == {"out": str(out), "images": 6, "sketches_left": 0, "failed": []}
    before = files(out)
    places = [Path(name).parts[0] for name in before if name.endswith(".png")]
    assert len(places) == 6 and set(places) == {"train", "test"}
    sketch = np.array(Image.open(next((out / "train").iterdir())))
    assert sketch.shape == (64, 64) or sketch.shape == (64, 128)
    assert sketch.dtype == np.uint8 and sketch.max() == 255 and (sketch == 0).mean() > 0.5

    kept, removed = sorted((out / "train").iterdir())[:2]
    removed.unlink()
    kept.write_bytes(b"as it is")
    assert run(photos, out, "--test", "0.4") == 0
    assert removed.exists() and kept.read_bytes() == b"as it is"


def test_the_layout_is_compressais(photos, tmp_path):
    from compressai.datasets import ImageFolder

    run(photos, tmp_path / "out", "--test", "0.3", "--valid", "0.3")
    splits = ("train", "valid", "test")
    sizes = [len(ImageFolder(tmp_path / "out", split=split)) for split in splits]
    assert sum(sizes) == 6 and min(sizes) > 0


def test_several_sizes_lie_side_by_side(photos, tmp_path):
    assert run(photos, tmp_path / "out", "--short_side", "128", "64", "128") == 0
    for split in ("train", "test"):
        paths = (tmp_path / "out" / split).iterdir()
        pictures = {path.name: Image.open(path).size for path in paths}
        assert all(min(size) == int(name.split("_")[1][:-4]) for name, size in pictures.items())
        assert {name.split("_")[0] + "_64.png" for name in pictures} <= set(pictures)
    assert len(files(tmp_path / "out")) == 12 + 1


def test_the_number_of_workers_changes_nothing(photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no picture")
    command = [sys.executable, "generate_sketches.py", *flags(photos, tmp_path / "two")]
    command += ["--workers", "2", "--sketch_type", "hed-tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run(photos, tmp_path / "one", "--sketch_type", "hed-tiny") == done.returncode == 1
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == ["broken"]
    assert done.stderr.count("failed: broken: ") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("sent", "status", "workers"), [(signal.SIGKILL, -9, "1"), (signal.SIGINT, 130, "2")]
)
def test_a_run_that_was_ended_goes_on(sent, status, workers, photos, tmp_path):
    for number in range(6, 60):
        (photos / f"{number}.png").symlink_to(photos / f"{number % 6}.png")
    assert run(photos, tmp_path / "whole", "--short_side", "512") == 0
    command = [sys.executable, "generate_sketches.py", *flags(photos, tmp_path / "out")]
    command += ["--short_side", "512", "--workers", workers]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **options)
    while process.poll() is None and not list(tmp_path.glob("out/t*/*.png")):
        time.sleep(0.005)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as the terminal does
    else:
        process.send_signal(sent)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    if sent == signal.SIGINT:
        assert json.loads(printed.splitlines()[-1])["sketches_left"] > 0
        assert errors.endswith("stopped: start it again to go on\n") and "Traceback" not in errors
    torn = tmp_path / "out" / "train" / ".torn.png.99999999.tmp"
    torn.write_bytes(b"half a sketch")
    assert run(photos, tmp_path / "out", "--short_side", "512") == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_other_settings_are_kept_out(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(photos, out) == 0
    before = files(out)
    assert run(photos, out, "--sketch_type", "hed-tiny") == 2
    message = "other settings (sketch_type canny -> hed-tiny): choose another --out"
    assert message in capsys.readouterr().err
    assert run(photos, out, "--short_side", "64", "128") == 2
    assert "short_side [64] -> [64, 128]" in capsys.readouterr().err
    assert run(photos, out, "--valid", "0.2") == run(photos.parent, out) == 2
    assert files(out) == before
    (out / "settings.json").unlink()
    assert run(photos, out) == 2
    assert "no settings.json speaks of" in capsys.readouterr().err


def test_a_broken_image_is_named_and_the_rest_goes_on(photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (4000, 10)).save(photos / "thin.png")
    assert run(photos, tmp_path / "out") == 1
    captured = capsys.readouterr()
    for text in ("failed: broken: ", "failed: thin: 4000x10 pixels is too long"):
        assert text in captured.err
    expected = {"images": 8, "sketches_left": 2, "failed": ["broken", "thin"]}
    assert json.loads(captured.out.splitlines()[-1]) == {"out": str(tmp_path / "out")} | expected


def test_a_full_disk_is_one_line(photos, tmp_path, capsys, monkeypatch):
    def full(path, content):
        if path.suffix == ".png":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.files.write", full)
    assert run(photos, tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "No space left on device: start it again to go on\n" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["sketches_left"] == 6


def test_weights_that_cannot_be_had_are_status_1(photos, tmp_path, capsys):
    assert run(photos, tmp_path / "out", "--sketch_type", f"hed:{tmp_path / 'gone.pth'}") == 1
    assert "ControlNetHED.pth of lllyasviel/Annotators" in capsys.readouterr().err


def test_the_split_follows_the_name_and_none_is_empty():
    names = [f"image {number}" for number in range(1000)]
    chosen = splits(names, 0.1, 0.2)
    counts = [list(chosen.values()).count(split) for split in ("test", "valid", "train")]
    assert 60 < counts[0] < 140 and 140 < counts[1] < 260 and sum(counts) == 1000
    assert splits(names[:500], 0.1, 0.2) == {name: chosen[name] for name in names[:500]}
    assert "valid" not in splits(names, 0.1).values()
    few = sorted(splits(names[:3], 1e-6, 1e-6).values())
    assert few == ["test", "train", "valid"]


def test_a_few_images_are_done_by_one_process():
    assert useful_workers(20) == 1 and 1 <= useful_workers(10**6) <= MOST_WORKERS


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--test", "0"], "--test 0.0"),
        (["--test", "0.5", "--valid", "0.5"], "leave some for train/"),
        (["--workers", "-1"], "--workers -1"),
        (["--sketch_type", "sobel"], "unknown annotator 'sobel': choose one of hed-tiny, hed"),
    ],
)
def test_wrong_usage_is_status_2(wrong, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, tmp_path / "out", *wrong)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_no_images_or_a_wrong_size_is_status_2(photos, tmp_path, capsys):
    assert run(tmp_path / "absent", tmp_path / "out") == 2
    assert "absent" in capsys.readouterr().err
    assert run(photos, tmp_path / "out", "--short_side", "64", "100") == 2
    assert "short side 100: must be a multiple of 64" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["generate_sketches.py", "train_compressai.py"])
def test_help_answers_without_loading_torch(script):
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    )
    started = time.monotonic()
    command = [sys.executable, "-c", code, script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr
    assert time.monotonic() - started < 5  # a second on a free machine


def test_help_tells_of_every_filter_and_its_weights():
    command = [sys.executable, "generate_sketches.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sk_model.pth of lllyasviel/Annotators, 17 MB, MIT; needs controlnet_aux" in done.stdout
