"""Data sets in tar shards and of the hub give the images of a folder.

python -m pytest tests/test_shards.py
"""

import io
import json
import tarfile

import numpy as np
import pytest
from helpers.stub_run import run, stub
from PIL import Image

from dataloaders import load_samples

webdataset = pytest.importorskip("webdataset", reason="needs requirements-shards.txt")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (96, 64), (10 * i, 20, 30)).save(folder / f"p{i}.png")
    (folder / "p3.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture
def tars(photos, tmp_path):
    """Shards of two images each, with labels."""
    folder = tmp_path / "shards"
    folder.mkdir()
    pattern = str(folder / "photos-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
        for path in sorted(photos.iterdir()):
            writer.write({"__key__": path.stem, "png": path.read_bytes(), "cls": 3})
    return folder


def test_shards_hold_what_the_folder_holds(photos, tars):
    folder = load_samples(photos, None, 64)
    for root in (tars, f"{tars}/photos-{{000..002}}.tar", f"{tars}/photos-*.tar"):
        shards = load_samples(root, None, 64)
        assert tuple(shards.names) == tuple(folder.names) and shards.name == "photos"
        for i in (0, 4, 1):
            assert np.array_equal(shards[i].image, folder[i].image) and shards[i].index == i
        with pytest.raises(ValueError, match=r"picture"):
            shards[3]


def test_a_run_of_shards_is_that_of_the_folder(photos, tars, tmp_path, monkeypatch):
    stub(monkeypatch.setattr)
    assert run(photos, tmp_path / "one") == run(tars, tmp_path / "two") == 1
    files = []
    for output in ("one", "two"):
        (folder,) = (tmp_path / output).iterdir()
        found = {path.name: path.read_bytes() for path in folder.glob("*.p*")}
        found["summary"] = json.loads((folder / "summary.json").read_text())["mean"]
        files.append(found)
    assert files[0] == files[1] and len(files[0]) == 4 * 5 + 1


def test_names_are_unique(tmp_path):
    png = io.BytesIO()
    Image.new("RGB", (64, 64)).save(png, "PNG")
    for shard in ("a", "b"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for name in ("x.png", "X.json", f"own{shard}.PNG", "deep/y.jpg.png", "x.png"):
                info = tarfile.TarInfo(name)
                info.size = len(png.getvalue())
                archive.addfile(info, io.BytesIO(png.getvalue()))
    names = load_samples(tmp_path, None, 64).names
    assert len(names) == len({name.casefold() for name in names}) == 8
    assert {"owna", "ownb", "a_deep_y", "b_deep_y"} <= set(names)


@pytest.mark.parametrize("spoil", [b"", b"not a tar" * 100, None])
def test_a_damaged_shard_is_one_line(tars, tmp_path, spoil):
    path = tars / "photos-001.tar"
    path.write_bytes(path.read_bytes()[:700] if spoil is None else spoil)
    with pytest.raises(ValueError, match=r"photos-001\.tar: no tar file, or damaged"):
        load_samples(tars, None, 64)


def test_a_data_set_of_the_hub(photos, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs requirements-shards.txt")
    paths = [str(photos / f"p{i}.png") for i in (0, 1, 2, 4)]
    rows = datasets.Dataset.from_dict({"image": paths, "label": [1, 2, 3, 4]})
    rows = rows.cast_column("image", datasets.Image())
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    rows.to_parquet(str(folder / "train-00000-of-00001.parquet"))
    monkeypatch.chdir(tmp_path)
    samples = load_samples("hf:owner/name:train", None, 64)
    assert samples.is_stream and samples.names[2] == "train-000000002" and len(samples) == 4
    whole = load_samples(photos, None, 64)
    for number, other in ((1, 1), (3, 4), (0, 0)):
        assert np.array_equal(samples[number].image, whole[other].image)
    with pytest.raises(ValueError, match="hf:owner/nowhere:train: "):
        load_samples("hf:owner/nowhere", None, 64)
