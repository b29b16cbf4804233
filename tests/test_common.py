"""What every level uses: weights from mirrors, downloads, files, devices, the arithmetic coder.

python -m pytest tests/test_common.py
"""

import json
import math
import pickle
import socket
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common import weights
from common.arithmetic_coder import Reader, Writer
from common.device import choose_device
from common.files import ROOT, png, read_json, write
from common.weights import (
    UnavailableError,
    fetch,
    fetch_checkpoint,
    from_mirrors,
    is_path,
    why_unreachable,
)

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


# ---- weights from mirrors


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers."""
    monkeypatch.setattr(weights, "why_unreachable", lambda address: "")


def test_mirrors_are_tried_in_order_until_one_loads(hub, tmp_path):
    tried = []

    def load(*found):
        tried.append(found)
        if found[0] == "owner/gone":
            raise OSError("404")
        return f"model of {found[0]}"

    sources = ["owner/gone", str(tmp_path / "absent"), "owner/copy@1a2b", "owner/never"]
    assert from_mirrors(load, sources, "ControlNet") == "model of owner/copy"
    assert tried == [("owner/gone", None, False), ("owner/copy", "1a2b", False)]


def test_a_folder_that_exists_is_taken_whole(tmp_path):
    folder = tmp_path / "copy@home"
    folder.mkdir()
    assert from_mirrors(lambda *found: found, [str(folder)], "CLIP") == (str(folder), None, True)


def test_failure_names_every_source_its_reason_and_the_cure(hub, tmp_path):
    def load(source, revision, local_files_only):
        raise {"a/b": OSError, "d/e": ValueError}[source]("not found\nmuch more text")

    sources = ["a/b", str(tmp_path / "c"), "d/e@f"]
    with pytest.raises(UnavailableError) as caught:
        from_mirrors(load, sources, "CLIP", "Buy a disk.")
    assert str(caught.value).splitlines() == [
        "CLIP could not be loaded; tried",
        "  a/b: not found",
        f"  {tmp_path / 'c'}: no such file or folder",
        "  d/e@f: ValueError: not found",
        "Buy a disk.",
    ]


def test_long_reasons_are_cut(hub):
    def load(*_):
        raise ImportError("x" * 1000)

    with pytest.raises(UnavailableError) as caught:
        from_mirrors(load, ["a/b"], "CLIP")
    assert max(map(len, str(caught.value).splitlines())) < 250


def test_programming_errors_pass_through(hub):
    with pytest.raises(ZeroDivisionError):
        from_mirrors(lambda *_: 1 / 0, ["a/b"], "CLIP")


def test_without_a_network_only_the_hubs_cache_is_read(monkeypatch):
    monkeypatch.setattr(weights, "why_unreachable", lambda address: "no route to host")
    assert from_mirrors(lambda *found: found, ["a/b@c"], "CLIP") == ("a/b", "c", True)

    def load(*_):
        raise OSError("no config.json")

    message = "a/b: the hub cannot be reached; its cache: no config"
    with pytest.raises(UnavailableError, match=message):
        from_mirrors(load, ["a/b"], "CLIP")


def test_a_hub_of_the_users_own_is_the_one_that_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "why_unreachable", lambda address: asked.append(address) or "")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    from_mirrors(lambda *found: found, ["a/b"], "CLIP")
    assert asked == ["http://127.0.0.1:9"]


@pytest.mark.parametrize("source", ["a", "/a/b", "a/b/c", "./a", "../a/b", "~/a", "a\\b"])
def test_paths_are_told_from_hub_ids(source):
    assert is_path(source)
    assert not is_path("owner/name")
    assert not is_path("owner-2/name.v1_x@refs/pr/1")


# ---- hosts and downloads


@pytest.fixture
def no_proxy(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    why_unreachable.cache_clear()
    yield
    why_unreachable.cache_clear()


def test_a_host_that_does_not_answer_is_noticed_and_asked_once(no_proxy, monkeypatch):
    asked = []

    def refuse(address, timeout):
        asked.append((address, timeout))
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for _ in range(2):
        assert why_unreachable("https://dead.example/file") == "no route to host"
    assert asked == [(("dead.example", 443), weights.ANSWER_SECONDS)]


def test_a_closed_port_of_this_machine_does_not_answer(no_proxy):
    assert "refused" in why_unreachable("http://127.0.0.1:9").lower()


def test_a_server_answers_whatever_it_says(no_proxy):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert why_unreachable(f"http://127.0.0.1:{server.getsockname()[1]}/none") == ""


def test_a_proxy_is_trusted(no_proxy, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert why_unreachable("https://dead.example") == ""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of torch.hub."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_a_file_is_downloaded_once(hub, cache, monkeypatch):
    def download(url, path):
        assert not (cache / "net.pth").exists()
        (cache / "net.pth").write_bytes(url.encode())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        path = fetch("https://example.org/a/net.pth")
        assert path == cache / "net.pth"
        assert path.read_bytes() == b"https://example.org/a/net.pth"


def test_a_file_that_cannot_be_fetched_is_named_with_its_place(cache, monkeypatch):
    url = "https://example.org/net.pth"
    message = rf"{url} cannot be fetched \(gone\); put the file at {cache / 'net.pth'}"

    def fail(*_):
        raise OSError("gone")

    monkeypatch.setattr(weights, "why_unreachable", lambda address: "gone")
    with pytest.raises(UnavailableError, match=message):
        fetch(url)
    monkeypatch.setattr(weights, "why_unreachable", lambda address: "")
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UnavailableError, match=message):
        fetch(url)


def test_a_checkpoint_holds_nothing_but_weights(cache):
    cache.mkdir()
    torch.save({"a": torch.zeros(2)}, cache / "good.pth")
    assert fetch_checkpoint("https://example.org/good.pth") == cache / "good.pth"
    (cache / "text.pth").write_bytes(b"not found")
    (cache / "code.pth").write_bytes(pickle.dumps(print))
    for name in ("text.pth", "code.pth"):
        message = f"{name} is broken, or holds more than weights: delete it"
        with pytest.raises(UnavailableError, match=message):
            fetch_checkpoint(f"https://example.org/{name}")


# ---- files and devices


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write(file, b"one")
    write(file, b"two")
    assert file.read_bytes() == b"two"

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(file, b"three")
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]  # nothing temporary is left


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_pictures_are_png_files(tmp_path, shape):
    picture = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    write(tmp_path / "a.png", png(picture))
    with Image.open(tmp_path / "a.png") as file:
        assert file.format == "PNG"
        np.testing.assert_array_equal(np.asarray(file), picture)


def test_json_files_and_those_that_are_missing(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"ä": 1}), encoding="utf-8")
    assert read_json(tmp_path / "a.json", missing={}) == {"ä": 1}
    assert read_json(tmp_path / "b.json", missing={"b": 2}) == {"b": 2}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


def test_the_root_is_the_project():
    assert (ROOT / "common" / "files.py").is_file()


class Properties(NamedTuple):
    """What PyTorch tells of a GPU."""

    name: str
    total_memory: float


@pytest.mark.parametrize(
    ("gpus", "asked", "chosen"),
    [
        (0, None, "cpu"),
        (0, "cpu", "cpu"),
        (2, None, "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_devices(monkeypatch, capsys, gpus, asked, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties("A100", 80e9))
    assert choose_device(asked) == chosen
    said = capsys.readouterr().err
    if asked:
        assert said == ""
    else:
        assert said.startswith("device: cuda: A100, 80 GB\n" if gpus else "device: cpu: ")


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device 'cuda' is not available: this machine has cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    with pytest.raises(ValueError, match="this machine has cpu, cuda, cuda:0"):
        choose_device("cuda:1")


# ---- the arithmetic coder

frequencies = st.tuples(st.integers(0, 2**90), st.integers(1, 2**90), st.integers(0, 2**90))


@given(st.lists(frequencies, max_size=40))
def test_intervals(parts):
    """What is written is read, in the fewest bytes that its probability allows, or one more."""
    symbols = [(before, own, before + own + behind) for before, own, behind in parts]
    writer = Writer()
    for symbol in symbols:
        writer.put(*symbol)
    data = writer.bytes()
    bits = sum(math.log2(total) - math.log2(own) for _, own, total in symbols)
    assert len(data) <= bits / 8 + 1.01
    reader = Reader(data)
    for start, own, total in symbols:
        assert start <= reader.slot(total) < start + own
        reader.take(start, own, total)
