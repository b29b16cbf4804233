"""Codec files of strangers: one line each that names the file, whatever they hold.

    python -m pytest tests/test_codec_files.py

The long run is tests/long/codec_files.py.
"""

import io
import os
import random
import time
import zipfile

import numpy as np
import pytest
import torch
from fuzz.codec_files import WAYS, Reader, changed_pickle, check_message, corpus, mutant
from helpers.codec_files import (
    archive,
    config_of,
    records_of,
    saved,
    sketch_file,
    small_network,
    with_config,
    zoo_state,
)
from helpers.hostile_codecs import hostile_codecs
from helpers.small_training import Memory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import pics
from models_ntc import FOLDER, load_sketch_codec
from models_ntc.codec import CodecFileError, load_file, save_codec
from models_ntc.errors import refusing
from models_ntc.networks import expected_tensors, new_network, sizes_of
from models_ntc.pickled import describe
from models_ntc.torch_file import open_torch_file

pytestmark = pytest.mark.usefixtures("one_thread")
MOST_SECONDS = 2.0  # of processor time
MOST_MEBIBYTES = 500
QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SKETCH = np.zeros((64, 64), np.uint8)
SKETCH[20:30] = 255


@pytest.fixture(scope="module")
def files():
    return corpus()


@pytest.fixture(scope="module")
def cases():
    return hostile_codecs()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(tmp_path_factory.mktemp("mutants"))


def payload(path):
    return load_sketch_codec(path).encode(SKETCH)


# ---- hostile files


def test_hostile_codec_files_end_in_one_line(cases, reader):
    assert len(cases) >= 120
    for name, (suffix, data) in cases.items():
        memory = Memory()
        began = time.process_time()
        assert reader.read(suffix, data) == "CodecFileError", name
        assert time.process_time() - began < MOST_SECONDS, name
        assert memory.growth() < MOST_MEBIBYTES, name


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("scale levels: 1", "its scale_levels is 1, not an integer from 2 to 4096"),
        ("scale levels: 10^9", "its scale_levels is 1000000000, not an integer"),
        ("scale: 0", "its scale is 0, not a number from 1e-06 to 1e+06"),
        ("a table's length is negative", "its gaussian_conditional._cdf_length is -5 to"),
        ("a list", "it holds no named weights"),
        ("names that are numbers", "it holds no named weights"),
        ("an expanded view", "a tensor of 1000000000 numbers in a storage of 1"),
        ("an encoder's weight is not a number", "its analysis.1.weight is not finite"),
        ("a gain overflows", "its log_gain.curve.weight is beyond 65504"),
        ("config is missing", "it carries no config"),
        ("channels: of another network", "its analysis.3.weight is [4, 4, 3, 3], expected [5"),
        ("a pickle that runs a command", "it holds more than weights: os.system"),
    ],
)
def test_messages_say_what_is_wrong(cases, tmp_path, case, message):
    suffix, data = cases[case]
    path = tmp_path / f"codec{suffix}"
    path.write_bytes(data)
    with pytest.raises(CodecFileError) as caught:
        payload(path)
    assert str(caught.value).startswith(f"{path} is no sketch codec: ")
    assert message in str(caught.value)


def test_names_of_files_stay_on_one_line(cases, tmp_path):
    path = tmp_path / "a\nb\x1b[31m.safetensors"
    path.write_bytes(cases["a text"][1])
    with pytest.raises(CodecFileError, match=r"a.*b.*\.safetensors is no sketch codec") as caught:
        load_sketch_codec(path)
    assert str(caught.value).isprintable()


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    for name in ("pipe.pt", "folder.pt", "n" * 5000, "a\0b"):
        with pytest.raises(ValueError, match="no sketch codec at "):
            load_sketch_codec(f"{tmp_path}/{name}")


def test_lambdas_that_a_file_does_not_have_name_it(tmp_path):
    (tmp_path / "codec.safetensors").write_bytes(sketch_file())
    for rate in ("nan", "inf", "7", "-1"):
        with pytest.raises(ValueError, match=rf"codec\.safetensors: lambda {rate}: .* 0\.02 to 1"):
            load_sketch_codec(f"{tmp_path / 'codec.safetensors'}@{rate}")


@pytest.mark.parametrize("case", ["scale levels: 10^9", "an expanded view"])
def test_commands_end_with_a_status(cases, tmp_path, monkeypatch, capsys, case):
    """`pics.py encode` asks for the codec before it does anything."""
    suffix, data = cases[case]
    path = tmp_path / f"codec{suffix}"
    path.write_bytes(data)
    monkeypatch.setattr(pics, "encode", lambda args: load_sketch_codec(args.lam_sketch))
    command = ["encode", "photo.png", str(tmp_path / "out.pics"), "--lam_sketch", str(path)]
    assert pics.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path} is no sketch codec: ")


# ---- well-formed files


def test_the_corpus_is_well_formed(files, reader):
    assert {reader.read(suffix, data) for suffix, data in files} == {"read"}


def test_the_bundled_codec_is_as_declared():
    net, config = load_file(FOLDER / "sketch.safetensors")
    assert config["sizes"]["latent"] == 64 and net.config.scale_levels == 48


@pytest.mark.parametrize("model", ["sketch", "mbt2018", "cheng2020-attn"])
def test_expected_tensors_are_those_of_the_network(model):
    before = torch.get_rng_state()
    expected = expected_tensors(model, {})
    assert torch.equal(torch.get_rng_state(), before)
    state = new_network(model).state_dict()
    assert list(expected) == list(state)
    for name, tensor in state.items():
        assert (expected[name].shape, expected[name].dtype) == (tensor.shape, tensor.dtype)


def test_forms_of_one_state_dict_give_one_codec(tmp_path):
    """Wrapped, in the older form, in other formats and orders of numbers, with older names."""
    state = zoo_state()
    older = {}
    for name, value in state.items():
        for plural, single in (("matrices", "matrix"), ("biases", "bias"), ("factors", "factor")):
            name = name.replace(f"entropy_bottleneck.{plural}.", f"entropy_bottleneck._{single}")
        older[name] = value
    last = {
        n: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for n, v in state.items()
    }
    strided = {n: torch.stack([v, v], -1)[..., 0] for n, v in state.items()}
    forms = {
        "plain.pt": saved(state),
        "wrapped.pth.tar": saved({"state_dict": {f"module.{n}": v for n, v in state.items()}}),
        "older_form.pth": saved(state, zipped=False),
        "older_names.pt": saved(older),
        "doubles.pt": saved(
            {n: v.double() if v.is_floating_point() else v for n, v in state.items()}
        ),
        "longs.pt": saved({n: v if v.is_floating_point() else v.long() for n, v in state.items()}),
        "channels_last.pt": saved(last),
        "strided.pt": saved(strided),
        "parameters.pt": saved({n: torch.nn.Parameter(v, False) for n, v in state.items()}),
        "archive.pt": archive(records_of(saved(state))),
    }
    payloads = set()
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        payloads.add(payload(tmp_path / name))
    assert len(payloads) == 1


def test_a_checkpoint_in_compressais_form_is_read_with_its_optimizers(tmp_path):
    net = small_network("mbt2018-mean")
    optimizer = torch.optim.Adam(net.parameters())
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    content = {
        "epoch": 3,
        "state_dict": net.state_dict(),
        "loss": torch.tensor(1.5),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "size": torch.Size([3, 4]),
        "format": torch.float16,
        "device": torch.device("cpu"),
    }
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    assert load_sketch_codec(tmp_path / "checkpoint.pth.tar").config["model"] == "mbt2018-mean"


def test_a_network_whose_tables_cannot_be_made_is_not_written(tmp_path):
    path = tmp_path / "codec.safetensors"
    for name, number in (("matrices.0", float("nan")), ("matrices.4", -900.0), ("quantiles", 1e9)):
        net = small_network()
        net.entropy_bottleneck.get_parameter(name).data.fill_(number)
        with pytest.raises(CodecFileError, match=r"codec\.safetensors is no sketch codec: its "):
            save_codec(net, path, "sketch", None, "ms-ssim")
    assert not path.exists()


def test_a_file_may_have_any_sizes_within_the_limits(tmp_path):
    net = new_network("sketch", {**sizes_of(small_network()), "lambda_range": [1.0, 1.0]})
    save_codec(net, tmp_path / "codec.safetensors", "sketch", 1.0, None)
    assert load_file(tmp_path / "codec.safetensors")[1]["lambda"] == 1.0


# ---- reading without running


def test_tensors_are_read_as_torch_reads_them(tmp_path):
    content = {
        "plain": torch.randn(3, 4),
        "view": torch.randn(4, 6)[1:3, ::2],
        "turned": torch.randn(3, 5).T,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "halves": torch.randn(7).half(),
        "flags": torch.tensor([True, False]),
    }
    for zipped in (True, False):
        (tmp_path / "file.pt").write_bytes(saved(content, zipped))
        with open_torch_file(tmp_path / "file.pt") as file:
            for name, tensor in content.items():
                read = file.tensor(file.content[name])
                assert read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_a_pickle_is_described_and_not_run():
    nested = {"a": [1, 2.5, None, True, "é", (1, (2,))], 3: {}}
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(nested))) as source:
        file.write(source.read("archive/data.pkl"))
    file.seek(0)
    assert describe(file).content == nested


def test_errors_of_programming_are_not_blamed_on_the_file():
    with pytest.raises(TypeError), refusing("file", "sketch codec"):
        len(3)


# ---- mutants


def test_every_kind_of_mutant_is_made(files):
    rng = random.Random(1)
    made = set()
    while len(made) < 16:
        made.add(mutant(files, rng)[:2])
    assert {way for way, _ in made} == set(WAYS)


@QUICK
@given(seed=st.integers(0, 2**32))
def test_mutants_of_codec_files(files, reader, seed):
    reader.read(*mutant(files, random.Random(seed))[1:])


@QUICK
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".safetensors", ".pt"]))
def test_any_bytes_as_a_codec_file(reader, data, suffix):
    for begin in (b"", b"PK\3\4", b"\x80\2"):
        assert reader.read(suffix, begin + data) == "CodecFileError"


@QUICK
@given(data=st.binary(max_size=100))
def test_any_bytes_as_a_pickle(reader, data):
    assert reader.read(".pt", archive({"data.pkl": data + b"."})) == "CodecFileError"


@QUICK
@given(seed=st.integers(0, 2**32))
def test_any_change_of_a_pickle(files, reader, seed):
    records = records_of(files[2][1])
    pickle = changed_pickle(records["data.pkl"], random.Random(seed))
    reader.read(".pt", archive({**records, "data.pkl": pickle}))


@QUICK
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_subnormal=False)
        | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
        ),
        max_leaves=5,
    ),
    name=st.sampled_from(["model", "lambda", "metric", "sizes"]),
)
def test_any_value_in_a_config(files, reader, value, name):
    data = files[0][1]
    config = {**config_of(data), name: value}
    outcome = reader.read(".safetensors", with_config(data, config))
    harmless = name == "lambda" and (value is None or isinstance(value, (int, float)))
    assert outcome == "CodecFileError" or harmless or (name == "metric" and value is None)


def test_a_message_is_checked(tmp_path):
    check_message(f"{tmp_path} is no sketch codec: a reason", tmp_path)
    for message in ("a reason", f"{tmp_path} is no sketch codec: two\nlines"):
        with pytest.raises(AssertionError):
            check_message(message, tmp_path)


def test_files_can_be_put_together_again(files):
    data = files[0][1]
    assert load(with_config(data, config_of(data))).keys() == load(data).keys()
    assert len(save(load(data))) > 1000
