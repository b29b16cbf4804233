"""--bytes, --allocations and --layers: what they become, wrong usage, runs and folders.

python -m pytest tests/test_budget_flags.py
"""

import json

import pytest
import skimage.data
import yaml
from helpers.checkpoints import local_preset
from PIL import Image

import eval_PIC
import eval_PICS
import pics
from allocation.config import BudgetConfig
from evaluation.flags import encoder_config, parser
from presets import PRESETS
from reporting.rows import as_row, metrics_of

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"annotator": "canny", "short_side": 64, "steps": 1, "prompt_steps": 4, "candidates": 2}


def config_of(*argv, sketch=True):
    flags = parser("")
    flags.add_argument("--lam_sketch", type=float)
    return encoder_config(flags.parse_args(argv), sketch)


def test_flags_become_a_budget():
    config = config_of("--bytes", "240", "--allocations", "3")
    assert isinstance(config, BudgetConfig) and (config.budget, config.allocations) == (240, 3)
    assert config.sketch and config.prompt.sent and config.color_bytes is None
    pic = config_of("--bytes", "240", sketch=False)
    assert not pic.sketch and pic.color_bytes == 0 and pic.prompt.sent
    colors = config_of("--bytes", "240", "--layers", "color")
    assert not colors.sketch and not colors.prompt.sent and colors.color_bytes is None


def test_layers_are_limited_without_a_budget_too():
    config = config_of("--layers", "sketch, color")
    assert config.sketch and not config.prompt.sent and config.color_bytes is None
    assert config_of("--layers", "text").color_bytes == 0
    assert config_of("--layers", "text,color").color_bytes == PRESETS["tiny"].color_bytes
    assert config_of("--color_bytes", "50", sketch=False).color_bytes == 50


@pytest.mark.parametrize(
    "argv",
    [
        ["--allocations", "2"],
        ["--layers", "text", "--color_bytes", "9"],
        ["--layers", "text", "--lam_sketch", "0.1"],
        ["--layers", "color", "--prompt_bytes", "9"],
        ["--layers", "color", "--color_bytes", "0"],
        ["--layers", "color", "--preset", "sd21"],
    ],
)
def test_flags_that_contradict_one_another_are_refused(argv):
    with pytest.raises(ValueError, match="--"):
        config_of(*argv)


def test_pic_sends_no_sketch():
    with pytest.raises(ValueError, match="PIC sends no sketch"):
        config_of("--layers", "text,sketch", sketch=False)


@pytest.mark.parametrize(
    "words", [["--bytes", "23"], ["--bytes", "x"], ["--layers", "text,smell"], ["--layers", "base"]]
)
@pytest.mark.parametrize("main", [eval_PIC.main, eval_PICS.main, None])
def test_wrong_usage_is_refused_at_once(main, words, capsys):
    main, argv = (main, words) if main else (pics.main, ["encode", "a.jpg", "a.pics", *words])
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert "24 or more" in (told := capsys.readouterr().err) or "choose of text" in told


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder with preset.json."""
    folder = tmp_path_factory.mktemp("models")
    row = local_preset(folder, "tiny", **QUICK)
    models = {name: list(getattr(row, name)) for name in ("generator", "controlnet", "clip")}
    settings = {"base": "tiny", **QUICK}
    (folder / "preset.json").write_text(json.dumps({**settings, **models}))
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in (("a", skimage.data.astronaut()), ("b", skimage.data.coffee())):
        Image.fromarray(image[::4, ::4]).save(folder / f"{name}.png")
    return folder


def test_a_run_records_budget_and_choice_and_is_resumed_with_the_same_alone(
    preset, photos, tmp_path, capsys
):
    argv = ["--data_root", str(photos), "--preset", str(preset), "--output", str(tmp_path / "out")]
    argv += ["--metrics", "psnr", "--device", "cpu"]
    assert eval_PICS.main([*argv, "--bytes", "300"]) == 0
    run = next((tmp_path / "out").iterdir())
    for name in ("a", "b"):
        record = yaml.safe_load((run / f"{name}_caption.yaml").read_text())
        assert record["bytes"]["total"] == (run / f"{name}.pics").stat().st_size <= 300
        assert record["allocation"]["budget"] == 300 and "lam_sketch" in record["allocation"]
    header = (run / "results.csv").read_text().splitlines()[0].split(",")
    assert "budget" in header
    capsys.readouterr()
    assert eval_PICS.main([*argv, "--bytes", "301"]) == 2
    assert "bytes 300 -> 301" in capsys.readouterr().err
    assert eval_PICS.main([*argv, "--bytes", "300"]) == 0


def test_a_folder_within_a_budget_names_what_does_not_fit(preset, photos, tmp_path, capsys):
    command = ["encode", str(photos), str(tmp_path / "files"), "--preset", str(preset)]
    command += ["--device", "cpu", "--prompt", "a barn", "--bytes", "36"]
    assert pics.main(command) == 0
    sizes = [path.stat().st_size for path in (tmp_path / "files").glob("*.pics")]
    assert len(sizes) == 2 and max(sizes) <= 36
    assert pics.main([*command, "--lam_sketch", "1", "--color_bytes", "20"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 2 and all("or more with --bytes" in line for line in lines)


def test_budget_and_lambda_are_columns_but_no_metrics():
    sizes = {"bytes": {"total": 90}, "bpp": {"total": 0.1}, "metrics": {"psnr": 20.0}}
    allocation = {"budget": 100, "lam_sketch": 0.05, "tried": 2}
    row = as_row({"name": "a", "prompt": "", **sizes, "allocation": allocation})
    assert (row["budget"], row["lam_sketch"]) == (100, 0.05) and metrics_of([row]) == ["psnr"]
    row = as_row(
        {"name": "a", "prompt": "", **sizes, "allocation": allocation | {"lam_sketch": None}}
    )
    assert "lam_sketch" not in row
