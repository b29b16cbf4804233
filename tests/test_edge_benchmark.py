"""benchmarks/edges.py: the boundary measure in closed forms, thinning, a run, wrong usage.

python -m pytest tests/test_edge_benchmark.py
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import edges as bench
from benchmarks.edge_matching import HIGH, LOW, counts, scores

ROOT = Path(__file__).parent.parent
THRESHOLDS = np.array([0.25, 0.5, 0.75])
HEIGHT, WIDTH = 120, 160  # the tolerance is 0.0075 * 200 = 1.5 pixels


def line(column, top=10, bottom=110):
    picture = np.zeros((HEIGHT, WIDTH), np.float32)
    picture[top:bottom, column] = 1
    return picture


def scores_of(soft, drawn_by, annotators=1, matched=LOW):
    pixels = counts(soft, drawn_by.astype(int), annotators, THRESHOLDS)
    return scores(pixels[None], THRESHOLDS, matched)


def test_a_perfect_map_has_f_1():
    result = scores_of(line(50), line(50))
    assert result.ods == result.ois == 1
    assert result.precision == result.recall == [1, 1, 1]


@pytest.mark.parametrize(("shift", "f"), [(1, 1), (2, 0)])
def test_a_line_counts_within_the_tolerance_and_not_beyond(shift, f):
    assert scores_of(line(50 + shift), line(50)).ods == f


def test_one_line_matches_one_of_two():
    result = scores_of(line(50) + line(51), line(50))  # thinning keeps one of touching lines
    assert result.ods_precision > 0.95 and result.ods_recall > 0.95
    result = scores_of(line(49) + line(51), line(50))
    assert result.ods_precision == pytest.approx(0.5) and result.ods_recall == 1
    result = scores_of(line(50), line(49) + line(51))
    assert result.ods_precision >= 0.98 and result.ods_recall == pytest.approx(0.5)


def test_recall_weighs_a_pixel_by_the_people_who_drew_it():
    drawn_by = 3 * line(40) + line(80)
    assert scores_of(line(40), drawn_by, 4).ods_recall == pytest.approx(3 / 4)
    assert scores_of(line(80), drawn_by, 4).ods_recall == pytest.approx(1 / 4)
    assert scores_of(line(80), drawn_by, 4).ods_precision == 1


def test_a_drawn_line_serves_every_annotator_once():
    apart = line(49) + line(51)  # two people, the same contour
    assert scores_of(line(50), apart, 2).ods_recall == 1


def test_two_lines_along_a_contour_of_two_people_count_twice_in_high_alone():
    apart = line(49) + line(51)
    assert scores_of(apart, apart, 2, HIGH).ods_precision == 1
    assert scores_of(apart, apart, 2, LOW).ods_precision == pytest.approx(0.5, abs=0.02)
    far = line(40) + line(60)
    assert scores_of(far, far, 2, LOW).ods_precision == 1


def test_an_empty_map_scores_0():
    assert scores_of(np.zeros((HEIGHT, WIDTH), np.float32), line(50)).ods == 0
    assert scores_of(line(50), np.zeros((HEIGHT, WIDTH))).ods == 0


def test_ois_takes_each_pictures_own_threshold_and_ods_one_for_all():
    weak, strong = 0.3 * line(50), line(50) + 0.6 * line(100)  # the best: below 0.3; above 0.6
    drawn_by = line(50).astype(int)
    pixels = [counts(soft, drawn_by, 1, THRESHOLDS) for soft in (weak, strong)]
    result = scores(np.stack(pixels), THRESHOLDS, LOW)
    assert result.ois == 1
    assert result.ods == pytest.approx(0.8)  # 200 of 300 drawn pixels, all 200 of the people's


def test_average_precision_is_the_area_over_the_recall_that_is_reached():
    # (recall, precision) (1, 0.5) and (0.5, 1)
    pixels = np.array([[[100, 100, 50, 100, 100], [50, 100, 40, 40, 40]]])
    area = np.linspace(1, 0.5, 51).sum() / 100
    assert scores(pixels, np.array([0.3, 0.6]), LOW).ap == pytest.approx(area)


@pytest.mark.parametrize("turn", [0, 1])
def test_suppression_thins_a_blurred_line_to_one_pixel(turn):
    x = np.arange(WIDTH)
    soft = np.tile(np.exp(-((x - 70.3) ** 2) / 18), (HEIGHT, 1)).astype(np.float32)
    kept = np.rot90(bench.suppress(np.rot90(soft, turn).copy()), -turn)[10:-10]
    assert (kept[:, 70] == soft[10:-10, 70]).all()
    assert np.count_nonzero(kept > 0.01) == len(kept)


def test_suppression_follows_a_slanted_line_and_fades_at_the_frame():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    kept = bench.suppress(np.exp(-((x - y - 20) ** 2) / 36).astype(np.float32))
    inner = kept[10:100] > 0.5
    assert (inner.sum(1) >= 1).all() and inner.sum() < 2 * len(inner)
    assert not bench.suppress(np.ones((HEIGHT, WIDTH), np.float32))[:, [0, -1]].any()


def test_canny_keeps_a_strong_step_longer_than_a_weak_one():
    photo = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    photo[:, 50:], photo[:, 110:] = 100, 255
    soft = bench.canny(photo)[20:-20]
    weak, strong = soft[:, 45:56].max(1), soft[:, 105:116].max(1)
    assert (weak > 0).all() and (strong > 2 * weak).all()


@pytest.mark.parametrize("annotators", [4, 5, 6, 7, 8, 9])
def test_the_mean_tells_how_many_drew_a_pixel(annotators, tmp_path):
    drawn = np.arange(annotators + 1)[None].repeat(4, 0)
    Image.fromarray((drawn * (255 / annotators)).astype(np.uint8)).save(tmp_path / "x.png")
    drawn_by, number = bench.read_boundaries(tmp_path / "x.png")
    assert number == annotators and (drawn_by == drawn).all()


def test_a_gray_picture_is_no_mean_of_annotators(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="256 gray levels"):
        bench.read_boundaries(tmp_path / "x.png")


def test_a_run(tmp_path, capsys):
    photo = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    photo[:, 80:] = 220
    Image.fromarray(photo).save(tmp_path / "1.jpg")
    Image.fromarray((255 * line(80, 0, HEIGHT)).astype(np.uint8)).save(tmp_path / "1_edges.png")
    arguments = ["--data", str(tmp_path), "--thresholds", "5", "--repeats", "1", "--threads", "1"]
    assert bench.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    summary = json.loads(output.out)
    assert summary["pictures"] == 1
    for row in summary["detectors"].values():
        assert 0.8 < row["low"]["ods"] <= row["high"]["ods"] and row["seconds"] > 0
    assert "hed-tiny" in output.err and "canny, published" in output.err
    assert json.loads((tmp_path / "out" / "edges.json").read_text()) == summary
    assert Image.open(tmp_path / "out" / "edges.png").size[0] > 500


def test_wrong_usage(tmp_path, capsys):
    assert bench.main(["--data", str(tmp_path)]) == 2
    assert "no *.jpg" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(tmp_path / "7.jpg")
    assert bench.main(["--data", str(tmp_path)]) == 2
    assert "7_edges.png" in capsys.readouterr().err
    Image.new("L", (8, 8)).save(tmp_path / "7_edges.png")
    for detector in ("hedd", "hed:nowhere.pth"):
        assert bench.main(["--data", str(tmp_path), "--detectors", detector]) == 2
        assert detector.split(":")[-1] in capsys.readouterr().err
    Image.new("L", (8, 9)).save(tmp_path / "7_edges.png")
    assert bench.main(["--data", str(tmp_path), "--detectors", "canny"]) == 2
    assert "(9, 8)" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        bench.main(["--data", str(tmp_path), "--workers", "0"])
    assert stop.value.code == 2


def test_help_does_not_load_the_models():
    probe = "import sys, runpy; sys.argv = ['benchmarks/edges.py', '--help']\n"
    probe += "try: runpy.run_path('benchmarks/edges.py', run_name='__main__')\n"
    probe += "except SystemExit: print('torch' in sys.modules, 'scipy' in sys.modules)"
    options = {"capture_output": True, "text": True, "check": True}
    shown = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, **options)
    assert shown.stdout.splitlines()[-1] == "False False"
