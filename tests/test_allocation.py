"""Budgets of bytes for whole files: the table, what fits, what is tried and what a user fixes.

    python -m pytest tests/test_allocation.py

The flags are in tests/test_budget_flags.py, the long run is tests/long/budgets.py.
"""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
from helpers.checkpoints import local_preset

import bitstream
import dataloaders
import prompt_inversion.prompter
from allocation.config import BudgetConfig
from allocation.encoder import BudgetEncoder, open_parts
from allocation.layers import AllocationError, Frame, Material, room
from allocation.table import FOLDER, Allocation, Row, allocations, load_table, read_table
from codec import Coded, Decoder
from diffusion.candidates import Chooser, Job
from models_ntc import load_base_codec, load_sketch_codec
from presets import PRESETS
from prompt_inversion.options import PromptOptions
from prompt_inversion.prompter import NOT_SENT, FoundPrompt

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = Allocation(12, 0.05)
BARE = Allocation(0, None)
TRIED = (BOTH, BARE, Allocation(4, 0.02))
ROWS = [Row(24, Allocation(0, None)), Row(100, Allocation(8, 0.02)), Row(300, BOTH)]
QUICK = {"annotator": "canny", "short_side": 64, "steps": 1, "prompt_steps": 4, "candidates": 2}
QUICK["candidates_with_base"] = 2


# ---- the table


def test_a_budget_has_the_row_nearest_below_and_its_neighbors():
    assert allocations(ROWS, 99) == [Allocation(0, None), Allocation(8, 0.02)]
    middle = allocations(ROWS, 299)
    assert middle[0] == Allocation(8, 0.02)
    assert set(middle[1:]) == {
        Allocation(8, None),
        BOTH,
        Allocation(0, None),
        Allocation(0, 0.02),
    }
    assert allocations(ROWS, 10**6)[0] == BOTH


def test_a_neighbor_that_is_the_same_is_not_tried():
    rows = [ROWS[0], Row(50, BARE), *ROWS[1:]]
    assert allocations(rows, 30) == [BARE]
    assert allocations(rows, 60) == [BARE, Allocation(8, 0.02)]


def test_every_table_that_ships_can_be_read():
    tables = list(FOLDER.glob("*.json"))
    assert {path.stem for path in tables} <= set(PRESETS) and len(tables) >= 1
    for path in tables:
        assert load_table(path.stem) == read_table(path)
    assert load_table("a preset without a table") == load_table("tiny")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], "list"),
        ({"rows": {}}, "list"),
        ({"rows": []}, "ascend from 24"),
        ({"rows": [{"bytes": 25, "prompt_bytes": 0, "lam_sketch": None}]}, "ascend from 24"),
        ({"rows": [{"bytes": 24, "prompt_bytes": 0}]}, "lam_sketch"),
        ({"rows": [{"bytes": 24, "prompt_bytes": 24, "lam_sketch": None}]}, "24 bytes in"),
        ({"rows": [{"bytes": 24, "prompt_bytes": 0.0, "lam_sketch": None}]}, "type"),
        ({"rows": [{"bytes": 24, "prompt_bytes": 0, "lam_sketch": 0}]}, "range"),
        ({"rows": [{"bytes": 24, "prompt_bytes": 0, "lam_sketch": "fine"}]}, "range"),
    ],
)
def test_what_is_no_table_is_refused(content, why, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=why):
        read_table(path)


def test_what_a_user_fixes_is_left_out_of_allocations():
    found = [BOTH, Allocation(12, None), Allocation(0, 0.02)]

    def limited(**options):
        return open_parts(found, BudgetConfig(budget=200, **options))

    assert limited() == found
    assert limited(allocations=2) == found[:2]
    assert limited(sketch=False) == [Allocation(12, None), Allocation(0, None)]
    assert limited(prompt=PromptOptions(sent=False)) == [
        Allocation(0, 0.05),
        Allocation(0, None),
        Allocation(0, 0.02),
    ]
    # Without open colors the sketch takes what is left, without an open sketch the prompt.
    assert limited(color_bytes=0) == [Allocation(12, math.inf), Allocation(0, math.inf)]
    assert limited(color_bytes=50, lam_sketch=0.1) == [Allocation(200, None)]
    for text in ({"text": "a barn"}, {"source": "caption"}, {"length": 3}, {"size": 9}):
        assert limited(prompt=PromptOptions(**text))[0] == Allocation(0, 0.05)


# ---- what fits


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A random image: smooth waves, a few edges and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(5, 40) + y / rng.uniform(5, 40)) for _ in range(3)]
    image = 128 + 60 * np.stack(waves, axis=-1) + rng.normal(0, rng.uniform(0, 20), (1, 1, 3))
    image[: int(rng.integers(1, height))] //= 2
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def coder():
    return SimpleNamespace(sketch_codec=load_sketch_codec(0.2), base_codec=load_base_codec())


def edges_of(image: np.ndarray) -> np.ndarray:
    steps = np.abs(np.diff(image.astype(int).sum(axis=2), axis=1, append=0))
    return (steps > 30).astype(np.uint8) * 255


def material_of(budget, image, coder, seed=3, source=(480, 640)):
    sketch = Coded(edges_of(image))
    frame = Frame(source, image.shape[:2], seed)
    material = Material(budget, frame, image, sketch, (Coded(), Coded()), coder, fills=True)
    material.prompts = {0: NOT_SENT, 12: FoundPrompt(bytes(12), (1, 2), 0.5)}
    return material


def size_of(layers, frame):
    sizes = *frame.source[::-1], *frame.coded[::-1]
    stream = bitstream.Stream(0, *sizes, frame.seed, *layers.payloads())
    return len(bitstream.pack(stream))


@pytest.mark.parametrize("lam", [None, 0.05, math.inf])
def test_no_file_is_over_its_budget(coder, lam):
    rng = np.random.default_rng(7)
    for number in range(12):
        budget = int(rng.integers(24, 1001))
        image = picture(number, 64, 64 * int(rng.integers(1, 3)))
        source = (int(rng.integers(1, 30000)), int(rng.integers(1, 30000)))
        material = material_of(budget, image, coder, int(rng.choice([0, 14, 15, 300])), source)
        layers = material.layers(Allocation(int(rng.choice([0, 12])), lam) if budget > 40 else BARE)
        assert size_of(layers, material.frame) <= budget
        assert (layers.allocation["lam_sketch"] is None) == (layers.sketch.payload is None)


@pytest.mark.parametrize("lam", [None, 0.05])
def test_the_colors_fill_the_budget(coder, lam):
    image = skimage.data.coffee()[:256, :384]
    shares = []
    for budget in range(100, 400, 89):
        material = material_of(budget, image, coder)
        layers = material.layers(Allocation(12, lam))
        size = size_of(layers, material.frame)
        assert size <= budget
        shares.append(size / budget)
    assert np.mean(shares) >= 0.95


def test_the_sketch_is_coded_more_coarsely_until_it_fits(coder):
    image = skimage.data.coffee()[:128, :192]
    roomy = material_of(2000, image, coder).layers(Allocation(0, 0.5))
    tight = material_of(len(roomy.sketch.payload), image, coder).layers(Allocation(0, 0.5))
    assert roomy.allocation["lam_sketch"] == pytest.approx(0.5, rel=0.13)
    assert 0 < tight.allocation["lam_sketch"] < roomy.allocation["lam_sketch"]
    assert len(tight.sketch.payload) < len(roomy.sketch.payload)
    decoded = coder.sketch_codec.decode(tight.sketch.payload)
    assert np.array_equal(decoded, tight.sketch.decoded)
    assert tight.color.payload  # room for the least of colors is kept


def test_what_does_not_fit_is_left_out(coder):
    image = skimage.data.coffee()[:128, :192]
    layers = material_of(40, image, coder).layers(Allocation(12, 0.5))
    assert layers.sketch.payload is None and layers.prompt.payload and layers.color.payload
    layers = material_of(26, image, coder).layers(Allocation(12, None))
    assert layers.color.payload is None and layers.prompt.payload


def test_room_counts_the_bytes_of_the_length():
    frame = Frame((100, 100), (64, 64), 0)
    for budget in range(24, 200):
        count = room(lambda text: frame.size(text, 0, 20), budget)
        assert count == 0 or frame.size(count, 0, 20) <= budget
        assert frame.size(count + 1, 0, 20) > budget
    assert room(lambda color: frame.size(0, 0, color), 10**6) == bitstream.MAX_LAYER_BYTES


# ---- the encoder


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    return local_preset(tmp_path_factory.mktemp("tiny"), "tiny", **QUICK)


@pytest.fixture(scope="module")
def images():
    originals = (skimage.data.coffee(), picture(1, 90, 90))
    return [dataloaders.resize(image, 64) for image in originals]


def encoder_of(row, budget, tried=TRIED, **options):
    config = BudgetConfig(budget=budget, **options)
    return BudgetEncoder(row, config, tried=tried)


@pytest.mark.parametrize("budget", [24, 130, 400])
def test_files_are_within_the_budget_and_decode(row, images, budget):
    encoder = encoder_of(row, budget)
    encoded = encoder.encode_all(images)
    decoder = Decoder(row)
    for one, image in zip(encoded, images, strict=True):
        assert len(one.data) <= budget
        decoded = decoder.decode(one.data)
        assert decoded.image.shape == image.shape
        assert decoded.conditions.prompt.ids == one.prompt
        assert one.allocation["budget"] == budget and 1 <= one.allocation["tried"] <= 3
        assert (decoded.stream.sketch is None) == (one.allocation["lam_sketch"] is None)
        assert decoded.stream.fingerprint >> 12 == row.number


def test_images_have_the_same_files_alone_and_in_a_batch(row, images):
    encoder = encoder_of(row, 130)
    together = encoder.encode(images)
    assert [encoder.encode([image])[0] for image in images] == together


def test_the_best_allocation_by_the_loss_is_kept(row, images):
    encoder = encoder_of(row, 130)
    wanted = []

    def score(image, candidates):  # the last one tried
        wanted.append(len(candidates))
        return [float(number) for number in range(len(candidates))]

    encoder.chooser = replace(encoder.chooser, score=score)
    one = encoder.encode_all(images[:1])[0]
    assert one.allocation["tried"] == 3 and wanted == [3, 2]  # allocations, then seeds
    stream = bitstream.unpack(one.data)
    assert 0 < len(stream.text) <= 4 and stream.seed == 1


def test_prompts_are_searched_once_and_shortened(row, images, monkeypatch):
    searched = []
    search = prompt_inversion.prompter.invert_prompts

    def counted(images, clip, config):
        searched.append((len(images), config.length))
        return search(images, clip, config)

    monkeypatch.setattr(prompt_inversion.prompter, "invert_prompts", counted)
    encoder = encoder_of(row, 130, tried=(Allocation(12, None), Allocation(4, None)))
    begun = encoder.begin(images[0])
    found = encoder.prompter.find(images[:1])[0]
    material = encoder.material(images[0], (64, 64), found, *begun)
    long, short = material.prompts[12], material.prompts[4]
    assert len(searched) == 1 and long.ids == found.ids
    assert len(short.payload) <= 4 < len(long.payload) <= 12
    assert short.payload == encoder.decoder.prompt_codec.encode_ids(short.ids)
    left = list(long.ids)
    for token in short.ids:  # some of the long prompt's, in its order
        left = left[left.index(token) + 1 :]
    assert encoder.prompter.shortened(found, images[0], 1) is None


def test_no_prompt_is_searched_if_none_is_sent(row, images, monkeypatch):
    monkeypatch.setattr(prompt_inversion.prompter, "invert_prompts", None)
    one = encoder_of(row, 60, tried=[BARE]).encode_all(images[:1])[0]
    assert one.prompt == () and math.isnan(one.cosine)


def test_fixed_parts_rule(row, images):
    prompt = PromptOptions(text="a red barn")
    one = encoder_of(row, 300, prompt=prompt, color_bytes=20).encode_all(images[:1])[0]
    decoded = Decoder(row).decode(one.data)
    assert decoded.conditions.prompt.text == "a red barn"
    assert 8 < len(decoded.stream.color) <= 20 and decoded.stream.sketch
    size = PromptOptions(size=9)
    one = encoder_of(row, 300, lam_sketch=0.1, prompt=size).encode_all(images[:1])[0]
    assert one.allocation["lam_sketch"] == 0.1
    assert 0 < len(bitstream.unpack(one.data).text) <= 9


def test_what_is_fixed_and_does_not_fit_is_an_error_that_says_what_does(row, images):
    options = {"lam_sketch": 1.0, "color_bytes": 40, "prompt": PromptOptions(text="a red barn")}
    with pytest.raises(AllocationError, match=r"allow \d+ or more") as refused:
        encoder_of(row, 40, **options).encode(images[:1])
    least = int(str(refused.value).split()[3])
    assert len(encoder_of(row, least, **options).encode(images[:1])[0]) == least
    with pytest.raises(AllocationError):
        encoder_of(row, least - 1, **options).encode(images[:1])


def test_a_sketch_alone_that_does_not_fit_is_an_error(row, coder):
    image = skimage.data.coffee()[:256, :384]
    finest = Allocation(0, math.inf)
    encoder = encoder_of(row, 24, tried=[finest], color_bytes=0, prompt=PromptOptions(sent=False))
    material = material_of(24, image, coder)
    material.prompts, material.fills = {0: NOT_SENT}, False
    with pytest.raises(AllocationError) as refused:
        encoder.layers(material)
    material.budget = int(str(refused.value).split()[3])
    assert size_of(encoder.layers(material)[0], material.frame) == material.budget
    material.budget -= 1
    assert material.layers(finest).sketch.payload is None


def test_the_bytes_of_many_seeds_are_counted(row, images):
    encoder = encoder_of(row, 60, tried=[BARE], candidates=17)
    encoder.chooser = replace(encoder.chooser, score=lambda image, all_: [*range(len(all_))])
    data = encoder.encode(images[:1])[0]
    assert bitstream.unpack(data).seed == 16 and len(data) <= 60


def test_candidates_share_batches_with_those_of_the_same_layers():
    batches = []

    def generate(each, seeds, height, width):
        batches.append((each, height))
        return [conditions[0] for conditions in each]

    kinds = (("a", None), ("b", 1), ("c", None), ("d", None))
    jobs = [Job(conditions, 0, 64, 64) for conditions in kinds]
    jobs.append(Job(("e", None), 0, 128, 64))
    assert Chooser(generate, None, 2).generate_all(jobs) == ["a", "b", "c", "d", "e"]
    assert [len(each) for each, _ in batches] == [2, 1, 1, 1]
    for each, _ in batches:
        assert len({conditions[1] for conditions in each}) == 1


@pytest.mark.parametrize(("budget", "tried"), [(23, 1), (-1, 1), (100, 0)])
def test_impossible_budgets_are_refused(budget, tried):
    with pytest.raises(ValueError, match="least"):
        BudgetConfig(budget=budget, allocations=tried)
