"""Prompt search on small random CLIPs in the real folder layout, against a plain restatement of PEZ."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from presets import PresetError
from prompt_inversion import PromptConfig, invert_prompts, load_clip

WORDS = ["a", "red", "barn", "under", "stormy", "sky", "blue", "sea", "with", "two", "white", "boats"]


def make_tokenizer(folder: Path) -> int:
    """Write a tokenizer in CLIP's files (bytes, bytes that end a word, words, start, end); its size."""
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
    words = make_tokenizer(folder)
    size = {"num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": words - 2, "eos_token_id": 2 if legacy_eos else words - 1, "pad_token_id": 1}
    text = CLIPTextConfig(hidden_size=48, intermediate_size=96, vocab_size=words, **size, **ids)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, image_size=32, patch_size=8, **size)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=40)
    model = CLIPModel(config)
    with torch.no_grad():  # random weights hardly tell prompts apart; larger ones do
        for weight in model.parameters():
            weight.mul_(3 if weight.ndim == 2 else 1)
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slowed by threads, tenfold where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(make_clip(tmp_path_factory.mktemp("clip") / "model"), "cpu")


@pytest.fixture(scope="module")
def legacy_clip(tmp_path_factory):
    """As the configs of openai/clip-*: the end token's id is 2 there and the tokenizer's last in truth."""
    return load_clip(make_clip(tmp_path_factory.mktemp("clip") / "legacy", legacy_eos=True), "cpu")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    shapes = [(40, 60), (64, 33), (32, 32), (50, 50), (90, 41)]
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def reference_features(embedded, clip):
    """Features (1, d) of a prompt's embeddings (1, length, width), end tokens up to the last position."""
    text = clip.model.text_model
    n = text.config.max_position_embeddings
    start, end = clip.tokenizer.bos_token_id, clip.tokenizer.eos_token_id
    ids = torch.tensor([[start, *[0] * embedded.shape[1], *[end] * (n - 1 - embedded.shape[1])]])
    whole = text.embeddings.token_embedding(ids)
    whole = torch.cat([whole[:, :1], embedded, whole[:, 1 + embedded.shape[1] :]], dim=1)
    causal = torch.full((1, 1, n, n), -torch.inf).triu(1)
    hidden = text.encoder(text.embeddings(inputs_embeds=whole), attention_mask=causal).last_hidden_state
    return clip.model.text_projection(text.final_layer_norm(hidden)[:, embedded.shape[1] + 1])


def reference_pez(image, clip, config):
    """The published loop, for one photograph: (ids, cosine)."""
    target = clip.image_features([image])
    table = clip.model.text_model.embeddings.token_embedding.weight
    generator = torch.Generator().manual_seed(config.seed)
    soft = table[clip.words[torch.randint(len(clip.words), (config.length,), generator=generator)]][None]
    mean, square = torch.zeros_like(soft), torch.zeros_like(soft)
    best = ((), -2.0)
    for step in range(1, config.steps + 1):
        scores = F.normalize(soft, dim=-1) @ F.normalize(table, dim=-1).T  # (1, length, vocabulary)
        banned = torch.ones(len(table), dtype=torch.bool)
        banned[clip.words] = False
        ids = scores.masked_fill(banned, -torch.inf).argmax(dim=-1)
        # Forward and backward at the projection, step at the soft prompt.
        hard = table[ids].clone().requires_grad_()
        loss = 1 - F.cosine_similarity(reference_features(hard, clip), target).mean()
        (gradient,) = torch.autograd.grad(loss, hard)
        # AdamW
        soft = soft * (1 - config.lr * config.weight_decay)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        soft = soft - config.lr * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        # Judge the words with a second forward.
        cosine = F.cosine_similarity(reference_features(table[ids], clip), target).item()
        if cosine > best[1]:
            best = (tuple(ids[0].tolist()), cosine)
    return best


def test_search_finds_the_ids_of_the_published_loop(clip, pictures):
    config = PromptConfig(length=8, steps=40)
    for found, picture in zip(invert_prompts(pictures, clip, config), pictures, strict=True):
        ids, cosine = reference_pez(picture, clip, config)
        assert found.ids == ids
        assert found.cosine == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize(("length", "steps", "threads"), [(1, 80, 1), (5, 80, 1), (16, 80, 1), (16, 10, 2)])
def test_a_photograph_gets_the_same_prompt_alone_and_anywhere_in_a_batch(clip, pictures, length, steps, threads):
    torch.set_num_threads(threads)
    config = PromptConfig(length=length, steps=steps)
    together = invert_prompts(pictures, clip, config)
    assert [invert_prompts([p], clip, config)[0] for p in pictures] == together
    assert invert_prompts(pictures[::-1], clip, config) == together[::-1]
    assert invert_prompts(pictures, clip, PromptConfig(length=length, steps=steps, batch=2)) == together


def test_search_repeats_itself_and_follows_its_seed(clip, pictures):
    first, again, other = (invert_prompts(pictures, clip, PromptConfig(steps=20, seed=s)) for s in (3, 3, 4))
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


def test_special_and_unprintable_words_are_never_chosen(clip, pictures):
    allowed = set(clip.words.tolist())
    vocabulary = clip.tokenizer.get_vocab()
    barred = {"<|startoftext|>", "<|endoftext|>", "Ġ", "Ċ</w>", "Ã", "ģ"}  # space, newline, half characters
    assert not allowed & {vocabulary[token] for token in barred}
    assert {vocabulary[token] for token in ("a", "!", "barn</w>", "sk")} <= allowed
    found = {i for p in invert_prompts(pictures, clip, PromptConfig(steps=60)) for i in p.ids}
    assert found <= allowed


def test_search_leaves_the_model_as_it_was_and_runs_where_gradients_are_off(clip, pictures):
    before = clip.text_features([[5, 6]])
    with torch.no_grad():
        invert_prompts(pictures[:1], clip, PromptConfig(steps=2))
    assert torch.equal(clip.text_features([[5, 6]]), before)
    assert all(weight.grad is None for weight in clip.model.parameters())
    assert not clip.model.text_model.embeddings.token_embedding._forward_hooks


def test_no_photographs_give_no_prompts(clip):
    assert invert_prompts([], clip, PromptConfig()) == []


@pytest.mark.parametrize("which", ["clip", "legacy_clip"])
def test_text_features_are_the_models_own(which, request):
    clip = request.getfixturevalue(which)
    text = "a red barn under a stormy sky"
    padded = clip.tokenizer([text], padding="max_length", max_length=77, return_tensors="pt").input_ids
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
    small = np.asarray(Image.fromarray(picture).resize((48, 32), Image.Resampling.BICUBIC))[:, 8:40] / 255
    mean, std = np.array(clip.processor.image_mean), np.array(clip.processor.image_std)
    pixels = torch.tensor((small - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    expected = F.normalize(clip.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    features = clip.image_features(pictures)
    assert features.shape == (5, 40)
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=-1), torch.ones(5), atol=1e-6)
    assert (features[0] @ expected[0]).item() > 0.9999  # PIL and torchvision differ by one level here and there


def test_image_features_do_not_depend_on_the_neighbours(clip, pictures):
    features = clip.image_features(pictures)
    assert torch.equal(features, torch.cat([clip.image_features([p]) for p in pictures]))
    assert clip.image_features([]).shape == (0, 40)


@pytest.mark.filterwarnings("error")
def test_pictures_may_be_read_only_or_views(clip, pictures):
    flipped, locked = pictures[0][:, ::-1], pictures[0].copy()
    locked.flags.writeable = False
    assert clip.similarity(locked, [pictures[0], flipped.copy(), flipped]) == pytest.approx(
        [1, *clip.similarity(pictures[0], [flipped]) * 2], abs=1e-6
    )


def test_similarity_is_the_cosine_of_the_features(clip, pictures):
    features = clip.image_features(pictures).numpy()
    cosines = clip.similarity(pictures[0], pictures[1:])
    assert cosines == pytest.approx((features[1:] @ features[0]).tolist(), abs=1e-6)


def test_mistakes_are_named_with_their_numbers(clip, pictures):
    with pytest.raises(ValueError, match=r"76 tokens does not fit: this CLIP has 77 positions.*at most 75"):
        invert_prompts(pictures, clip, PromptConfig(length=76))
    with pytest.raises(ValueError, match="at most 75"):
        clip.text_features([[1] * 76])
    with pytest.raises(ValueError, match=f"ids run from 3 to {clip.vocabulary}; there are {clip.vocabulary} words"):
        clip.text_features([[3, clip.vocabulary]])
    with pytest.raises(ValueError, match=r"HxWx3 uint8, not \(4, 4\) uint8"):
        clip.image_features([np.zeros((4, 4), np.uint8)])
    with pytest.raises(ValueError, match="steps is 0"):
        PromptConfig(steps=0)


def test_sources_are_tried_in_order_and_broken_ones_refused(tmp_path):
    whole, part = make_clip(tmp_path / "whole"), make_clip(tmp_path / "part")
    model = CLIPModel.from_pretrained(part)
    weights = {k: v for k, v in model.state_dict().items() if k != "text_projection.weight"}
    model.save_pretrained(part, state_dict=weights)
    assert load_clip([tmp_path / "absent", part, whole], "cpu").vocabulary > 512
    with pytest.raises(PresetError, match=r"text_projection\.weight"):
        load_clip(str(part), "cpu")
