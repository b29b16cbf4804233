"""What `pics.py info` and `decode` import, in processes of their own.

python -m pytest tests/test_imports.py
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.record_golden import RECORD

ROOT = Path(__file__).parent.parent
OWN = "allocation bitstream codec color_codec common dataloaders diffusion evaluation models_ntc "
OWN += "pics presets pretrained prompt_inversion reporting shards text_codec"
# What transformers and diffusers import whatever is asked of them: the hub's client and its parts.
HUB = "anyio attr attrs brotli certifi charset_normalizer filelock h11 httpcore httpcore2 httpx "
HUB += (
    "httpx2 idna huggingface_hub hf_xet outcome packaging requests sniffio socks sortedcontainers "
)
HUB += "tqdm trio truststore urllib3 yaml click typer shellingham rich"
LIBRARIES = (
    "accelerate dill diffusers einops google jinja2 markupsafe mpmath numpy PIL psutil regex "
)
LIBRARIES += (
    "regex safetensors scipy sympy tokenizers torch torchgen transformers triton typing_extensions"
)
INFO = {*OWN.split(), "numpy", "yaml", "tokenizers"}
DECODE = INFO | {*HUB.split(), *LIBRARIES.split()}
# What is not installed where sketches must be decoded all the same, and what takes long to import.
NEVER = (
    "compressai",
    "ray",
    "datasets",
    "webdataset",
    "torchvision",
    "pandas",
    "sklearn",
    "lightning",
    "sentence_transformers",
)
COMPILER = "torch._dynamo"
# Python's own start, and parts of packages: compiled Cython, the paths of CUDA's libraries.
UNNAMED = ("_", "cython_runtime", "cuda", "sitecustomize", "usercustomize", "google")

PROBE = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    status = runpy.run_path(sys.argv[0])["main"]()
except SystemExit as stop:
    status = stop.code
assert not status, status
found = [name for name, module in sys.modules.items() if getattr(module, "__spec__", None)]
print(json.dumps(found))
"""
HIDDEN = f"""
import sys
sys.modules.update(dict.fromkeys({NEVER}))  # none of them can be imported or found
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
"""
GOLDEN = """
import json
from codec import Decoder
from helpers.record_golden import RECORD, conditions
from presets import get_preset
record = json.loads(RECORD.read_text())
decoder = Decoder(get_preset(record["preset"]))
for row in record["streams"]:
    now = conditions(decoder, bytes.fromhex(row["file"]))
    assert (now["ids"], now["pictures"]) == (row["ids"], row["pictures"]), row["file"]
"""
LATER = """
import sys
from diffusion.library import diffusers
assert not {"torch._dynamo", "scipy.stats", "scipy.integrate", "torchvision"} & set(sys.modules)
beta = diffusers.UniPCMultistepScheduler(use_beta_sigmas=True)
beta.set_timesteps(4)
assert len(beta.sigmas) == 5
linear = diffusers.LMSDiscreteScheduler()
linear.set_timesteps(4)
assert linear.get_lms_coefficient(1, 0, 0)
import torch
double = torch.compile(lambda x: 2 * x, backend="eager")
assert double(torch.ones(1)) == 2
assert hasattr(sys.modules["torch._dynamo"], "convert_frame")
assert torch.distributed.is_available()
import transformers
assert diffusers.DiTTransformer2DModel and transformers.BertModel
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A golden stream with all layers."""
    streams = json.loads(RECORD.read_text(encoding="utf-8"))["streams"]
    longest = max(streams, key=lambda row: len(row["file"]))
    path = tmp_path_factory.mktemp("golden") / "golden.pics"
    path.write_bytes(bytes.fromhex(longest["file"]))
    return path


def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def imported(*arguments: object) -> set[str]:
    """The names of all modules that pics.py has imported at its end."""
    done = run(PROBE, "pics.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return set(json.loads(done.stdout.splitlines()[-1]))


def packages(modules: set[str]) -> set[str]:
    """The packages of modules, without Python's own."""
    found = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    return {name for name in found if not name.startswith(UNNAMED)}


def test_info_imports_next_to_nothing(file):
    assert packages(imported("info", file)) <= INFO


def test_drop_imports_next_to_nothing(file, tmp_path):
    assert packages(imported("drop", file, "color", tmp_path / "smaller.pics")) <= INFO


def test_refusing_a_foreign_file_imports_next_to_nothing(tmp_path):
    foreign = tmp_path / "foreign.pics"
    foreign.write_bytes(b"not a stream")
    code = PROBE.replace("assert not status, status", "assert status == 1, status")
    for command in (["info", foreign], ["drop", foreign, "color", tmp_path / "x.pics"]):
        done = run(code, "pics.py", *command)
        assert done.returncode == 0, done.stderr
        assert packages(set(json.loads(done.stdout))) <= INFO


def test_decode_imports_what_it_needs(file, tmp_path):
    modules = imported("decode", "--device", "cpu", file, tmp_path / "golden.png", "--force")
    assert packages(modules) <= DECODE
    assert not packages(modules) & set(NEVER)
    assert COMPILER not in modules
    assert (tmp_path / "golden.png").stat().st_size


def test_what_was_left_out_is_there_when_it_is_asked_for():
    done = run(LATER)
    assert done.returncode == 0, done.stderr


def test_golden_streams_decode_where_these_packages_are_missing():
    done = run(HIDDEN + GOLDEN)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("compressai"), reason="makes a codec file with it")
def test_a_codec_of_compressai_names_the_cure_without_it(tmp_path):
    from helpers.codec_files import small_network

    from models_ntc.codec import save_codec

    path = tmp_path / "zoo.safetensors"
    save_codec(small_network("mbt2018-mean"), path, "mbt2018-mean", 0.5, "mse")
    code = "import pics\nsys.exit(pics.main(sys.argv[1:]))"
    photo = ROOT / "recon_examples/examples/PICS_tiny_samples/coffee_recon.png"
    flags = ["--lam_sketch", path, "--N", "1", "--prompt", "coffee", "--device", "cpu"]
    done = run(HIDDEN + code, "encode", photo, tmp_path / "x.pics", *flags)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "compressai" in line and "pip install" in line
