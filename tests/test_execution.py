"""How models run on a GPU, shown on small models on a CPU: compiled, in turns, drawn together.

python -m pytest tests/test_execution.py
"""

import dataclasses
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from helpers.checkpoints import local_preset

import color_codec
import eval_PIC
import pics
from bitstream import Stream, pack
from codec import Decoder, Encoder, EncoderConfig
from dataloaders import Sample
from diffusion import execution, load_generator
from diffusion.execution import Execution, check
from diffusion.turns import Turns
from evaluation.evaluator import Evaluator, Work
from evaluation.timing import Stopwatch
from models_ntc import load_sketch_codec
from models_ntc.bundled import StreamLayers
from prompt_inversion.clip import load_clip
from prompt_inversion.options import PromptOptions

ROOT = Path(__file__).parent.parent
PROMPT = [5, 300, 40]
SIZE = (64, 128)


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    return local_preset(tmp_path_factory.mktemp("sd21"), "sd21")


@pytest.fixture
def sketch():
    lines = np.zeros(SIZE, np.uint8)
    lines[20:22] = 255
    return lines


# ---- what a device cannot do


@pytest.mark.parametrize(
    ("asked", "device", "message"),
    [
        ({"compile": "inductor"}, "cpu", "are for a GPU, and this run is on the CPU"),
        ({"memory": "low"}, "cpu", "leave them out"),
        ({"attention": "xformers"}, "cuda", "not installed: `pip install xformers`, or leave"),
        ({"compile": "inductor", "memory": "low"}, "cuda:1", "exclude each other"),
        ({"compile": "inductor", "memory": "auto"}, "cuda", "--memory auto exclude each other"),
    ],
)
def test_what_cannot_run_is_one_line(monkeypatch, asked, device, message):
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message) as caught:
        check(Execution(**asked), device)
    assert "\n" not in str(caught.value)


def test_what_can_run(monkeypatch):
    monkeypatch.setattr(execution, "find_spec", lambda name: object())
    for device in ("cpu", "cuda"):
        check(Execution(), device)
    check(Execution("inductor", "xformers"), "cuda")
    check(Execution(attention="xformers", memory="low"), "cuda")


@pytest.mark.parametrize("flag", [["--compile"], ["--attention", "xformers"], ["--memory", "low"]])
def test_scripts_on_a_cpu_refuse_with_one_line(tmp_path, capsys, flag):
    argv = [*flag, "--device", "cpu"]
    assert eval_PIC.main(["--output", str(tmp_path / "runs"), *argv]) == 2
    assert pics.main(["decode", str(tmp_path / "a.pics"), str(tmp_path / "a.png"), *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: --compile, ") for line in lines)
    assert not list(tmp_path.iterdir())


# ---- compiled, another attention


def test_compiling_is_asked_for_in_both_networks(row, sketch, monkeypatch):
    asked = []

    def compile_(call, **options):
        asked.append((type(call.__self__).__name__, options))
        return call

    monkeypatch.setattr(torch, "compile", compile_)
    load_generator(row, "cpu").generate(PROMPT, [3], *SIZE, sketch)
    assert asked == []
    generator = load_generator(row, "cpu", Execution(compile="inductor"))
    generator.generate(PROMPT, [3], *SIZE, sketch)
    options = {"backend": "inductor", "dynamic": False}
    assert asked == [("UNet2DConditionModel", options), ("ControlNetModel", options)]


def test_compiling_replays_the_steps_of_the_prompt_search(row, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    for compiler, expected in (("", False), ("inductor", True)):
        config = EncoderConfig(sketch=False, execution=Execution(compile=compiler))
        assert Encoder(row, config).prompter.search.graphs is expected


@pytest.mark.slow  # 15 s
def test_compiled_networks_draw_the_same(row, sketch):
    plain = load_generator(row, "cpu")
    compiled = load_generator(row, "cpu", Execution(compile="eager"))
    images = [one.generate(PROMPT, [3], *SIZE, sketch)[0] for one in (plain, compiled)]
    assert difference(*images) <= 1
    for generator, expected in ((plain, False), (compiled, True)):
        networks = (generator._text_pipeline.unet, generator._controlnet[1])
        assert [bool(one._compiled_call_impl) for one in networks] == [expected] * 2
    assert plain.identity(True) == compiled.identity(True)


COMPILED = """
import sys
from diffusion import load_generator
from diffusion.execution import Execution
from presets import get_preset
generator = load_generator(get_preset("tiny"), "cpu", Execution(compile="eager"))
assert "convert_frame" in dir(sys.modules["torch._dynamo"]), "not the compiler itself"
unet = generator._text_pipeline.unet
assert unet._compiled_call_impl != unet._call_impl
"""


def test_it_is_the_compiler_that_compiles():
    command = [sys.executable, "-c", COMPILED]  # in this process others have imported it
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_xformers_is_asked_for_in_both_networks(row, sketch, monkeypatch):
    asked = []
    name = "enable_xformers_memory_efficient_attention"
    monkeypatch.setattr(diffusers.ModelMixin, name, lambda self: asked.append(type(self).__name__))
    generator = load_generator(row, "cpu", Execution(attention="xformers"))
    generator.generate(PROMPT, [3], *SIZE, sketch)
    assert asked == ["UNet2DConditionModel", "ControlNetModel"]


# ---- one model at a time


class Places:
    """Where models are: the moves of Turns, which are none on a CPU."""

    def __init__(self, monkeypatch):
        self.there = {}  # a model: whether it is on the device
        self.most = 0  # that were there at once
        monkeypatch.setattr(Turns, "_come", lambda turns, model: self.put(model, True))
        monkeypatch.setattr(Turns, "_leave", lambda turns, model: self.put(model, False))

    def put(self, model, there):
        self.there[model] = there
        self.most = max(self.most, sum(self.there.values()))

    def names(self):
        return sorted(type(model).__name__ for model, there in self.there.items() if there)


def seen_when_used(monkeypatch, places, model, name, record):
    function = getattr(model, name)

    def spy(*args, **kwargs):
        record.append(places.names())
        return function(*args, **kwargs)

    monkeypatch.setattr(model, name, spy)


def test_one_model_at_a_time(row, sketch, monkeypatch):
    plain = load_generator(row, "cpu")
    color = np.full((SIZE[0] // 8, SIZE[1] // 8, 3), 90, np.uint8)
    given = (PROMPT, [3, 4], *SIZE, sketch, color)
    expected = plain.generate(*given)
    places = Places(monkeypatch)
    generator = load_generator(row, "cpu", Execution(memory="low"))
    pipeline = generator._text_pipeline
    seen = {"text": [], "unet": [], "control": [], "vae": []}
    seen_when_used(monkeypatch, places, pipeline.text_encoder, "_old_forward", seen["text"])
    seen_when_used(monkeypatch, places, pipeline.unet, "_old_forward", seen["unet"])
    seen_when_used(monkeypatch, places, generator._controlnet[1], "_old_forward", seen["control"])
    for name in ("_encode", "_decode"):
        seen_when_used(monkeypatch, places, pipeline.vae, name, seen["vae"])
    assert places.names() == []
    assert all(map(np.array_equal, generator.generate(*given), expected))
    both = ["ControlNetModel", "UNet2DConditionModel"]
    wanted = {"text": "CLIPTextModel", "vae": "AutoencoderKL"}
    for part, calls in seen.items():
        alone = [wanted[part]] if part in wanted else both
        assert calls and all(names == alone for names in calls)
    assert places.most == 2  # UNet and ControlNet


@pytest.mark.parametrize(("free", "turns"), [(2 * 4 * 100, False), (2 * 4 * 100 - 1, True)])
def test_models_take_turns_by_themselves_where_there_is_no_room(monkeypatch, free, turns):
    """A model of 100 weights in float32, beside which there must be as much room again."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    model = SimpleNamespace(get_memory_footprint=lambda: 4 * 100)
    made = execution.make_turns("auto", torch.device("cuda"), [model])
    assert isinstance(made, Turns) == turns
    assert execution.make_turns("all", torch.device("cuda"), [model]) is None
    assert execution.make_turns("auto", torch.device("cpu"), [model]) is None


def test_the_encoders_clip_takes_turns_too(row, monkeypatch):
    places = Places(monkeypatch)
    options = PromptOptions(steps=3, length=4)
    config = EncoderConfig(sketch=False, candidates=2, prompt=options)
    low = EncoderConfig(False, candidates=2, prompt=options, execution=Execution(memory="low"))
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    row = dataclasses.replace(row, short_side=64)
    one_at_a_time = Encoder(row, low, "cpu")
    assert places.names() == ["CLIPModel"]
    seen = []
    for tower in ("vision_model", "text_projection"):
        model = getattr(one_at_a_time.clip.model, tower)
        seen_when_used(monkeypatch, places, model, "forward", seen)
    assert one_at_a_time.encode([image]) == Encoder(row, config, "cpu").encode([image])
    assert seen and all(names == ["CLIPModel"] for names in seen)
    assert places.most <= 2


def test_a_clip_without_turns_is_the_plain_one(row):
    from prompt_inversion.waiting import load_clip as load

    assert type(load(row.clip, "cpu")) is type(load_clip(row.clip, "cpu"))


# ---- reconstructions of a batch


def difference(one, other):
    return np.abs(one.astype(int) - other.astype(int)).max()


def test_drawn_together_and_alone_agree_to_a_level(row, monkeypatch):
    decoder = Decoder(row, "cpu")
    works = []
    for number, size in enumerate([SIZE, SIZE, SIZE, (64, 64), SIZE]):
        text = decoder.prompt_codec.encode_ids([number + 3, 300])
        stream = Stream(decoder.fingerprint(StreamLayers()), *size[::-1], *size[::-1], number, text)
        sample = Sample(f"p{number}", np.zeros((*size, 3), np.uint8), *size[::-1], "")
        works.append(Work(sample, SimpleNamespace(data=pack(stream)), {}))
    batches = []
    generate = decoder.generator.generate_each

    def counted(prompts, *rest):
        batches.append(len(prompts))
        return generate(prompts, *rest)

    monkeypatch.setattr(decoder.generator, "generate_each", counted)
    pictures = {}
    for together in (1, 2):
        encoder = SimpleNamespace(decoder=decoder)
        evaluator = Evaluator(encoder, None, {}, Stopwatch(), "cpu", together)
        for work in works:
            evaluator.unpack(work)
        drawn = []
        for group in evaluator.groups(works):
            drawn += evaluator.generate(group)
        pictures[together] = [decoded.image for _, decoded in drawn]
    assert batches == [1] * 5 + [2, 1, 1, 1]
    assert max(map(difference, pictures[1], pictures[2])) <= 1
    for work, image in zip(works, pictures[1], strict=True):
        assert np.array_equal(decoder.decode(work.encoded.data).image, image)


# ---- layers coded by several threads at once


def test_layers_are_coded_alike_by_several_threads():
    codec = load_sketch_codec(0.2)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (128, 64, 3), np.uint8) for _ in range(8)]

    def code(image):
        payload, sketch = codec.encode_and_decode(image[..., 0] // 2)
        color = color_codec.encode(image, 60)
        decoded = codec.decode(payload), color_codec.decode(color, 128, 64)
        assert np.array_equal(decoded[0], sketch)
        return payload, color, decoded[1].tobytes()

    expected = list(map(code, images))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(code, images)) == expected


def test_sketches_are_coded_beside_the_prompt_search(row, monkeypatch):
    row = dataclasses.replace(row, short_side=64, annotator="hed-tiny")
    config = EncoderConfig(candidates=1, color_bytes=20, prompt=PromptOptions(steps=2, length=4))
    encoder = Encoder(row, config, "cpu")
    images = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))
    expected = encoder.encode(images)
    coded, find = threading.Semaphore(0), encoder.prompter.find
    code = encoder.decoder.sketch_codec.encode_and_decode
    monkeypatch.setattr(
        encoder.decoder.sketch_codec,
        "encode_and_decode",
        lambda sketch: (code(sketch), coded.release())[0],
    )

    def searched(images):
        for _ in images:
            assert coded.acquire(timeout=60)  # the search ends after the coding
        return find(images)

    monkeypatch.setattr(encoder.prompter, "find", searched)
    with ThreadPoolExecutor(2) as pool:
        encoder.map = pool.map
        assert encoder.encode(images) == expected
