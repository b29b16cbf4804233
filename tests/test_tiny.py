"""The scripts that make the bundled models, each for a moment on a dozen images.

python -m pytest tests/test_tiny.py
"""

import gzip
import json
import shutil
import subprocess

import cv2
import numpy as np
import pytest
import skimage.data

import tiny.data
import tiny.train_clip
import tiny.train_decoder
import tiny.train_edges
import tiny.train_generator
from annotator import load_annotator
from benchmarks import decoded_sketches
from codec import Decoder, Encoder, EncoderConfig
from common.files import ROOT
from presets import get_preset
from tiny import conditions
from tiny.facts import NAMES, color_grid
from tiny.latents import Latents, to_pixels


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Images with photos.jsonl, one that it does not list, boundaries, captions."""
    folder = tmp_path_factory.mktemp("data")
    photo, rng = skimage.data.astronaut(), np.random.default_rng(0)
    rows = []
    for i in range(12):
        y, x = rng.integers(0, 200, 2)
        cv2.imwrite(str(folder / f"{i}.png"), photo[y : y + 256 + 8 * i, x : x + 256, ::-1])
        captions = ["a woman in orange ."] * (i % 2)
        rows.append({"file": f"{i}.png", "label": "woman", "captions": captions})
    cv2.imwrite(str(folder / "not listed.png"), photo)
    (folder / "photos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for split in ("train", "val", "test"):
        own, part = folder / "bsds500" / split, photo[:300, :320]
        own.mkdir(parents=True)
        cv2.imwrite(str(own / "1.jpg"), part)
        cv2.imwrite(str(own / "1_edges.png"), cv2.Canny(part, 100, 200))
    captions = [f"a {name} dog and {i} blue birds" for i, name in enumerate(NAMES * 5)]
    captions += dir(np) * 2  # words enough for a token subset
    with gzip.open(folder / "captions.txt.gz", "wt") as file:
        file.write("\n".join(captions))
    return folder


@pytest.fixture(scope="module")
def bundle(source, tmp_path_factory):
    """Every script once, in order."""
    work = tmp_path_factory.mktemp("work")
    photos, prepared, made = str(work / "photos"), str(work / "conditions"), str(work / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny.data, "VALIDATION_FRACTION", 0.3)
        # The rate of the first step is 0, and a busy machine may not come to a second.
        patch.setattr(tiny.training, "cosine_schedule", lambda *_: 0.5)
        for script in (tiny.train_clip, tiny.train_decoder, tiny.train_edges, tiny.train_generator):
            patch.setattr(script, "BATCH", 2)
        patch.setattr(tiny.train_clip, "VOCAB_SIZE", 600)
        patch.setattr(tiny.train_generator, "SIZES", ((256, 256),))
        edges = ["--data", str(source / "bsds500"), "--out", str(work / "hed.safetensors")]
        tiny.train_edges.main([*edges, "--run", str(work / "edges"), "--seconds", "0.1"])
        tiny.data.main(["--source", str(source), "--out", photos])
        common = ["--photos", photos, "--seconds", "0.1"]
        captions = ["--captions", str(source / "captions.txt.gz"), "--out", f"{made}/clip"]
        tiny.train_clip.main([*common, *captions, "--run", str(work / "clip")])
        for kind in ("sketches", "decoded", "colors", "prompts"):
            arguments = ["--photos", photos, "--out", prepared, "--clip", f"{made}/clip"]
            conditions.main([kind, *arguments, "--steps", "2", "--workers", "1"])
        tiny.train_decoder.main([*common, "--run", str(work / "decoder"), "--bundle", made])
        data = ["--photos", photos, "--conditions", prepared, "--bundle", made]
        run = ["--run", str(work / "generator")]
        tiny.train_generator.main([*data, *run, "--seconds", "0.1"])
        first = json.loads((work / "generator" / "log.jsonl").read_text())
        more = str(first["seconds"] + 1)  # a busy machine may need long for one step
        tiny.train_generator.main([*data, *run, "--seconds", more])
        both = ["--out", str(work / "both"), "--seconds", "0.1", "--count", "2"]
        assert decoded_sketches.main([*data, *both]) == 0
    return work


def test_only_listed_images_are_taken(bundle):
    rows = json.loads((bundle / "photos" / "index.json").read_text())
    assert sorted(row["name"] for row in rows) == sorted(f"{i}.png" for i in range(12))
    assert 0 < sum(row["validation"] for row in rows) < 12
    assert all(min(row["shape"][:2]) == 256 and max(row["shape"][:2]) <= 384 for row in rows)


def test_conditions_belong_to_their_images(bundle):
    photos = tiny.data.Photos(bundle / "photos")
    prepared = conditions.Conditions(bundle / "conditions", photos)
    assert np.array_equal(prepared.plane(prepared.clean, 5), load_annotator("hed-tiny")(photos[5]))
    assert prepared.decoded(5).shape == photos[5].shape[:2]
    assert len(prepared.prompts) == 12 and len(prepared.prompt(5)) == 16


def test_runs_resume(bundle):
    lines = (bundle / "generator" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert len(steps) == 2 and steps[1]["step"] > steps[0]["step"] >= 1


def test_the_bundle_is_a_preset(bundle):
    row = bundle / "bundle" / "preset.json"
    row.write_text(json.dumps(json.loads(row.read_text()) | {"steps": 2, "prompt_steps": 2}))
    preset = get_preset(row.parent)
    image = skimage.data.astronaut()[:256, :320]
    encoder = Encoder(preset, EncoderConfig(candidates=1))
    data = encoder.encode([image])[0]
    assert Decoder(preset).decode(data).image.shape == image.shape


def test_linear_latents_keep_what_their_basis_spans():
    photo = skimage.data.astronaut()
    latents = Latents.fit([photo], 3000, np.random.default_rng(0))
    z = latents.encode(to_pixels([photo]))
    assert z.shape == (1, 16, 32, 32) and 0.8 < z.square().mean().sqrt() < 1.2
    again = latents.encode(latents.decode(z))
    assert (again - z).abs().max() < 1e-3
    error = (latents.decode(z) - to_pixels([photo])).square().mean() / 4
    assert -10 * np.log10(error.item()) > 20


def test_colors_are_named():
    photo = np.zeros((90, 90, 3), np.uint8)
    photo[:30], photo[30:60], photo[60:] = (60, 100, 175), (240, 240, 240), (75, 135, 60)
    assert [NAMES[i] for i in color_grid(photo)[:, 0]] == ["blue", "white", "green"]


def test_two_ways_of_training_are_compared(bundle):
    result = json.loads((bundle / "both" / "decoded_sketches.json").read_text())
    rows = {(row["trained on"], row["drawn from"]): row for row in result["means"]}
    assert result["steps"] >= 1 and len(rows) == 2 * 4
    assert 0 < rows["clean", "0.02"]["bytes"] < rows["clean", "1.0"]["bytes"]
    assert rows["clean", "0.2"]["error"] != rows["decoded", "0.2"]["error"]
    assert cv2.imread(str(bundle / "both" / "decoded_sketches.png")).std() > 0


def test_the_gain_is_that_of_decoded_sketches():
    row = {"drawn from": "0.2", "bytes": 100, "error": 0.5}
    figures = {"clean": (0.4, 0.5), "decoded": (0.5, 0.7)}
    rows = []
    for name, own in figures.items():
        rows += [row | {"trained on": name, "f1": f1} for f1 in own]
    table = decoded_sketches.summary(rows)
    assert [line["f1"] for line in table] == pytest.approx([0.45, 0.6])
    assert table[1]["gain in f1"].mean == pytest.approx(0.15)


def test_a_bundle_of_one_s_own_leaves_ours_alone(source, tmp_path):
    scripts = shutil.copytree(ROOT / "scripts", tmp_path / "clone" / "scripts")
    python, log, own = tmp_path / "python", tmp_path / "log", tmp_path / "own"
    python.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')  # writes down what it was to do
    python.chmod(0o755)
    command = ["bash", scripts / "train_tiny.sh", source, own]
    subprocess.run(command, env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"}, check=True)
    commands = log.read_text().splitlines()
    trained = [line.split()[1] for line in commands if "train" in line]
    assert trained == [f"tiny.train_{name}" for name in ("clip", "decoder", "generator")]
    assert all(str(own) in line for line in commands[-5:])
