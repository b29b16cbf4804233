"""Prompt search on small random CLIPs, against the published loops written out plainly.

python -m pytest tests/test_prompt_inversion.py
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.reference_pez import published_loop, swapping_loop
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

import text_codec
from common.weights import UnavailableError
from presets import PRESETS
from prompt_inversion import graphs, search
from prompt_inversion.clip import load_clip
from prompt_inversion.options import PromptOptions
from prompt_inversion.pixels import load_processor
from prompt_inversion.rate import search_config, within_bytes
from prompt_inversion.search import PromptConfig, invert_prompts
from prompt_inversion.useful_words import ids_of, ranking
from text_codec.vocabulary import name_of, token_subset

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ["a", "red", "barn", "under", "stormy", "sky"]
WORDS += ["blue", "sea", "with", "two", "white", "boats"]


def make_tokenizer(folder: Path) -> int:
    """Write a tokenizer in CLIP's files and return its size.

    Its tokens are bytes, bytes that end a word, WORDS and their parts, start and end.
    """
    alphabet = sorted(ByteLevel.alphabet())
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return len(tokens)


def make_clip(folder: Path, legacy_eos: bool = False) -> Path:
    """A random CLIP whose text width (48), vision width (32) and features (40) all differ."""
    folder.mkdir()
    vocab_size = make_tokenizer(folder)
    size = {"num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {
        "bos_token_id": vocab_size - 2,
        "eos_token_id": 2 if legacy_eos else vocab_size - 1,
        "pad_token_id": 1,
    }
    widths = {"hidden_size": 48, "intermediate_size": 96}
    text = CLIPTextConfig(vocab_size=vocab_size, **widths, **size, **ids).to_dict()
    widths = {"hidden_size": 32, "intermediate_size": 64}
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **widths, **size).to_dict()
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=40))
    with torch.no_grad():  # random weights hardly tell prompts apart; larger ones do
        for weight in model.parameters():
            weight.mul_(3 if weight.ndim == 2 else 1)
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(make_clip(tmp_path_factory.mktemp("clip") / "model"), "cpu")


@pytest.fixture(scope="module")
def legacy_clip(tmp_path_factory):
    """Like openai/clip-*, whose configs say that the end token's id is 2; it is the last one."""
    folder = make_clip(tmp_path_factory.mktemp("clip") / "legacy", legacy_eos=True)
    return load_clip(folder, "cpu")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    shapes = [(40, 60), (64, 33), (32, 32), (50, 50), (90, 41)]
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def plain(**settings):
    """Settings of the published search: descent and nothing else."""
    return PromptConfig(descent=settings["steps"], **settings)


def test_descent_finds_the_ids_of_the_published_loop(clip, pictures):
    config = plain(length=8, steps=40)
    for found, picture in zip(invert_prompts(pictures, clip, config), pictures, strict=True):
        generator = torch.Generator().manual_seed(config.seed)
        ids, cosine = published_loop(picture, clip, config, generator)
        assert found.ids == ids
        assert found.cosine == pytest.approx(cosine, abs=1e-5)


def test_swaps_find_the_ids_of_the_plain_loop(clip, pictures):
    # Five rounds of 1 + 10 / 2 steps.
    config = PromptConfig(length=7, steps=10 + 5 * 6, descent=10, swaps=10, among=8)
    for found, picture in zip(invert_prompts(pictures, clip, config), pictures, strict=True):
        generator = torch.Generator().manual_seed(config.seed)
        descended = published_loop(picture, clip, config, generator)
        ids, cosine = swapping_loop(picture, clip, config, generator, descended, rounds=5)
        assert found.ids == ids != descended[0]
        assert found.cosine == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize(
    ("length", "steps", "threads"), [(1, 80, 1), (5, 80, 1), (16, 80, 1), (16, 12, 2)]
)
def test_an_image_gets_the_same_prompt_alone_and_anywhere_in_a_batch(
    clip, pictures, length, steps, threads, threads_restored
):
    torch.set_num_threads(threads)
    config = PromptConfig(length=length, steps=steps, descent=steps // 3, swaps=8)
    together = invert_prompts(pictures, clip, config)
    assert [invert_prompts([p], clip, config)[0] for p in pictures] == together
    assert invert_prompts(pictures[::-1], clip, config) == together[::-1]
    assert invert_prompts(pictures, clip, replace(config, batch=2)) == together


def test_the_work_fits_the_budget_and_is_told_with_the_cosine(clip, pictures):
    for prompt in invert_prompts(pictures, clip, PromptConfig(steps=50, descent=10, swaps=8)):
        steps, seconds, cosines = map(list, zip(*prompt.history, strict=True))
        assert steps == [*range(1, 11), *range(15, 51, 5)]
        assert seconds == sorted(seconds) and cosines == sorted(cosines)
        assert cosines[-1] == prompt.cosine
    clock = invert_prompts(pictures, clip, PromptConfig(steps=10**9, seconds=0.2))
    for prompt in clock:
        assert all(seconds < 0.2 for _, seconds, _ in prompt.history[:-1])


def ids_used(prompts):
    return {token_id for prompt in prompts for token_id in prompt.ids}


def test_only_allowed_ids_are_chosen(clip, pictures):
    few = tuple(token_subset(clip.tokenizer, 5))
    prompts = invert_prompts(pictures, clip, PromptConfig(steps=60, allowed=few))
    assert ids_used(prompts) <= set(few)
    with pytest.raises(ValueError, match="2 tokens are allowed, some of them special"):
        invert_prompts(pictures, clip, PromptConfig(allowed=(few[0], clip.tokenizer.eos_token_id)))


def test_a_token_subset_has_whole_words_first_in_the_order_learned(clip):
    vocabulary, printable = clip.tokenizer.get_vocab(), set(clip.printable.tolist())
    first = [vocabulary[f"{word}</w>"] for word in ("red", "barn", "under", "stormy")]
    assert token_subset(clip.tokenizer, 2) == first
    assert [len(token_subset(clip.tokenizer, bits)) for bits in (0, 5, 7)] == [1, 32, 128]
    small, large = (set(token_subset(clip.tokenizer, bits)) for bits in (3, 7))
    assert small < large < printable
    message = rf"2\^12 tokens: there are {len(printable)} printable tokens"
    with pytest.raises(ValueError, match=message):
        token_subset(clip.tokenizer, 12)


def test_ranked_tokens_come_first(clip, monkeypatch):
    useful = clip.printable.tolist()[90:40:-1]
    rankings = {name_of(clip.tokenizer): useful}
    monkeypatch.setattr("text_codec.vocabulary.rankings", lambda: rankings)
    # A tokenizer of its own, whose order is not remembered.
    tokenizer = CLIPTokenizer.from_pretrained(clip.tokenizer.name_or_path)
    assert token_subset(tokenizer, 5) == sorted(useful[:32])
    assert set(useful) < set(token_subset(tokenizer, 6))
    assert clip.tokenizer.convert_tokens_to_ids("red</w>") in token_subset(tokenizer, 6)


def test_a_ranking_holds_what_prompts_use(clip, pictures, monkeypatch):
    monkeypatch.setattr("prompt_inversion.useful_words.MOST", 6)
    printable = clip.printable.tolist()
    ranked = ranking(clip.image_features(pictures[:2]), clip, printable)
    assert len(ranked) == len(set(ranked)) == 64
    first = PromptConfig(length=24, steps=150, ascending=True, allowed=tuple(printable))
    used = ids_used(invert_prompts(pictures[:2], clip, first))
    assert used <= set(ranked) <= set(printable)
    assert len(used & set(ranked[:32])) >= len(used) / 2


def test_words_to_rank_must_be_whole_words(clip):
    vocabulary = clip.tokenizer.get_vocab()
    assert ids_of(["sky", "red"], clip) == sorted([vocabulary["sky</w>"], vocabulary["red</w>"]])
    with pytest.raises(ValueError, match="'purple' is no word of this vocabulary, nor are 1 other"):
        ids_of(["red", "purple", "haze"], clip)


@pytest.mark.parametrize("size", [2, 9, 33])
def test_prompts_fit_the_bytes_allowed(clip, pictures, size):
    config = within_bytes(size, clip, PromptConfig(steps=40))
    for prompt in invert_prompts(pictures, clip, config):
        data = text_codec.encode(prompt.ids, clip.vocab_size, config.allowed)
        assert len(data) <= size
        assert tuple(text_codec.decode(data, clip.vocab_size, config.allowed)) == prompt.ids
    worst = [config.allowed[-1]] * (config.length + 1)
    one_more_fits = len(text_codec.encode(worst, clip.vocab_size, config.allowed)) <= size
    # In 33 bytes, 75 tokens, all that the text tower takes, leave bytes over.
    assert one_more_fits == (size == 33)
    assert (config.length == clip.longest_prompt) == one_more_fits
    assert within_bytes(size, clip, config, longest=3).length == min(3, config.length)


def test_no_prompt_fits_no_bytes(clip):
    with pytest.raises(ValueError, match="a prompt of 1 bytes is too small for one token"):
        within_bytes(1, clip, PromptConfig())


def test_two_bytes_hold_one_token_of_the_bundled_vocabulary():
    """Not one of all its 2,048 tokens, but one of the most useful ones."""
    row = PRESETS["tiny"]
    search = search_config(PromptOptions(size=2), row, load_clip(row.clip, "cpu"), longest=30)
    assert search.length == 1
    assert len(search.allowed) < 2048


def test_ascending_ids_are_searched_in_the_order_they_are_sent(clip, pictures):
    config = PromptConfig(steps=120, ascending=True)
    for prompt, picture in zip(invert_prompts(pictures, clip, config), pictures, strict=True):
        assert list(prompt.ids) == sorted(prompt.ids)
        cosine = clip.text_features([prompt.ids])[0] @ clip.image_features([picture])[0]
        assert prompt.cosine == pytest.approx(cosine.item(), abs=1e-6)
    first, last = (invert_prompts(pictures, clip, replace(config, steps=n)) for n in (1, 120))
    assert all(b.cosine > a.cosine + 0.1 for a, b in zip(first, last, strict=True))


def test_search_repeats_itself_and_follows_its_seed(clip, pictures):
    first, again, other = (
        invert_prompts(pictures, clip, PromptConfig(steps=20, seed=s)) for s in (3, 3, 4)
    )
    assert first == again
    assert all(a.ids != b.ids for a, b in zip(first, other, strict=True))


def test_more_steps_never_lower_the_cosine(clip, pictures):
    runs = [invert_prompts(pictures, clip, PromptConfig(steps=s)) for s in (1, 5, 20, 80)]
    cosines = np.array([[prompt.cosine for prompt in run] for run in runs])
    assert (np.diff(cosines, axis=0) >= 0).all()
    assert (cosines[-1] > cosines[0] + 0.1).all()


def test_the_cosine_reported_is_that_of_the_ids(clip, pictures):
    prompts = invert_prompts(pictures, clip, PromptConfig(steps=30))
    features = clip.text_features([prompt.ids for prompt in prompts])
    cosines = (features * clip.image_features(pictures)).sum(dim=-1)
    assert [p.cosine for p in prompts] == pytest.approx(cosines.tolist(), abs=1e-6)


def test_special_and_unprintable_tokens_are_never_chosen(clip, pictures):
    allowed = set(clip.printable.tolist())
    vocabulary = clip.tokenizer.get_vocab()
    barred = ["<|startoftext|>", "<|endoftext|>"]
    barred += ["Ġ", "Ċ</w>", "Ã", "ģ"]  # space, newline, half characters
    assert not allowed & {vocabulary[token] for token in barred}
    assert {vocabulary[token] for token in ("a", "!", "barn</w>", "sk")} <= allowed
    assert ids_used(invert_prompts(pictures, clip, PromptConfig(steps=60))) <= allowed


def test_search_leaves_the_model_as_it_was_and_runs_where_gradients_are_off(clip, pictures):
    before = clip.text_features([[5, 6]])
    with torch.no_grad():
        invert_prompts(pictures[:1], clip, PromptConfig(steps=2))
    assert torch.equal(clip.text_features([[5, 6]]), before)
    assert all(weight.grad is None for weight in clip.model.parameters())


def recomputed(function, inputs):
    """Stands for `graphs.capture` on a CPU: a replay computes anew, into the same memory."""
    outputs = function(*inputs)

    def replay():
        places = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        again = function(*inputs)
        values = (again,) if isinstance(again, torch.Tensor) else again
        for place, value in zip(places, values, strict=True):
            place.copy_(value)

    return replay, outputs


@pytest.mark.parametrize("most", [1, 8])
def test_replayed_steps_find_the_same_ids(clip, pictures, monkeypatch, most):
    captured = []

    def capture(function, inputs):
        captured.append((function.__name__, inputs[0].shape))
        return recomputed(function, inputs)

    clip = replace(clip)  # another, of the same model: nothing is captured of it
    config = PromptConfig(length=4, steps=14, descent=4, swaps=8)  # two rounds
    monkeypatch.setattr(search, "POSITIONS", 10)  # two prompts at a time
    images = [*pictures, *pictures]
    expected = invert_prompts(images, clip, config)
    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "MOST", most)
    monkeypatch.setattr(search, "TextTower", graphs.ReplayedTower.of)
    for _ in range(2):  # what is captured is kept for the next batch
        assert invert_prompts(images, clip, config) == expected
    assert captured == [("gradient", (2, 4)), ("cosines", (2, 4))]
    # The gradient of a last part of one prompt is captured too, if there is room for it.
    assert invert_prompts(images[:-1], clip, config) == expected[:-1]
    assert captured[2:] == ([("gradient", (1, 4))] if most > 1 else [])


def test_nothing_is_captured_on_a_cpu(clip, pictures, monkeypatch):
    monkeypatch.setattr(graphs, "capture", None)
    config = PromptConfig(steps=2)
    found = invert_prompts(pictures[:1], clip, replace(config, graphs=True))
    assert found == invert_prompts(pictures[:1], clip, config)


def test_no_images_give_no_prompts(clip):
    assert invert_prompts([], clip, PromptConfig()) == []


@pytest.mark.parametrize("which", ["clip", "legacy_clip"])
def test_text_features_are_the_models_own(which, request):
    clip = request.getfixturevalue(which)
    text = "a red barn under a stormy sky"
    options = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
    padded = clip.tokenizer([text], **options).input_ids
    ids = clip.tokenizer(text, add_special_tokens=False).input_ids
    expected = F.normalize(clip.model.get_text_features(input_ids=padded).pooler_output, dim=-1)
    several = clip.text_features([ids, ids[:2], []])
    assert torch.allclose(clip.text_features([ids]), expected, atol=1e-6)
    assert torch.allclose(several[:1], expected, atol=1e-6)
    assert torch.allclose(several[1:2], clip.text_features([ids[:2]]), atol=1e-6)
    assert several.shape == (3, 40)
    assert clip.decode(ids) == text


def test_a_wrong_end_token_in_the_config_changes_nothing(clip, legacy_clip, pictures):
    config = PromptConfig(steps=10)
    assert legacy_clip.model.config.text_config.eos_token_id == 2
    assert invert_prompts(pictures, legacy_clip, config) == invert_prompts(pictures, clip, config)


def test_image_features_are_of_the_picture_resized_and_cropped(clip, pictures):
    picture = pictures[0]  # 40x60: the short side to 32 makes it 32x48
    small = Image.fromarray(picture).resize((48, 32), Image.Resampling.BICUBIC)
    small = np.asarray(small)[:, 8:40] / 255
    mean, std = np.array(clip.processor.image_mean), np.array(clip.processor.image_std)
    pixels = torch.tensor((small - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    expected = F.normalize(clip.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    features = clip.image_features(pictures)
    assert features.shape == (5, 40)
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=-1), torch.ones(5), atol=1e-6)
    # PIL and torchvision differ by one level here and there.
    assert (features[0] @ expected[0]).item() > 0.9999


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 32}, "crop_size": 32},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False, "resample": 2},
        {"size": {"shortest_edge": 24}, "crop_size": {"height": 32, "width": 32}},
    ],
)
def test_pixels_are_those_of_transformers_on_torchvision(settings, pictures, tmp_path):
    stock = CLIPImageProcessor(**settings)
    stock.save_pretrained(tmp_path)
    own = load_processor(str(tmp_path), 32)
    for picture in pictures:
        expected = stock(images=picture, return_tensors="pt", input_data_format="channels_last")
        assert torch.equal(own(picture), expected["pixel_values"])


def test_image_features_do_not_depend_on_the_neighbors(clip, pictures):
    features = clip.image_features(pictures)
    assert torch.equal(features, torch.cat([clip.image_features([p]) for p in pictures]))
    assert clip.image_features([]).shape == (0, 40)


@pytest.mark.filterwarnings("error")
def test_pictures_may_be_read_only_or_views(clip, pictures):
    flipped, locked = pictures[0][:, ::-1], pictures[0].copy()
    locked.flags.writeable = False
    found = clip.similarity(locked, [pictures[0], flipped.copy(), flipped])
    expected = [1, *clip.similarity(pictures[0], [flipped]) * 2]
    assert found == pytest.approx(expected, abs=1e-6)


def test_similarity_is_the_cosine_of_the_features(clip, pictures):
    features = clip.image_features(pictures).numpy()
    cosines = clip.similarity(pictures[0], pictures[1:])
    assert cosines == pytest.approx((features[1:] @ features[0]).tolist(), abs=1e-6)


def test_mistakes_are_named_with_their_numbers(clip, pictures):
    message = r"76 tokens does not fit: this CLIP has 77 positions.*at most 75"
    with pytest.raises(ValueError, match=message):
        invert_prompts(pictures, clip, PromptConfig(length=76))
    with pytest.raises(ValueError, match="at most 75"):
        clip.text_features([[1] * 76])
    most = clip.vocab_size
    with pytest.raises(ValueError, match=f"ids run from 3 to {most}; there are {most} tokens"):
        clip.text_features([[3, most]])
    with pytest.raises(ValueError, match=r"HxWx3 uint8, not \(4, 4\) uint8"):
        clip.image_features([np.zeros((4, 4), np.uint8)])
    with pytest.raises(ValueError, match="steps is 0"):
        PromptConfig(steps=0)


def test_sources_are_tried_in_order_and_broken_ones_refused(tmp_path):
    whole, part = make_clip(tmp_path / "whole"), make_clip(tmp_path / "part")
    model = CLIPModel.from_pretrained(part)
    weights = {k: v for k, v in model.state_dict().items() if k != "text_projection.weight"}
    model.save_pretrained(part, state_dict=weights)
    assert load_clip([tmp_path / "absent", part, whole], "cpu").vocab_size > 512
    with pytest.raises(UnavailableError, match=r"text_projection\.weight"):
        load_clip(str(part), "cpu")
