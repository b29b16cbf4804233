"""`--prompt_search pez`: the published search, with its nearest tokens by sentence-transformers.

python -m pytest tests/test_published_search.py
"""

import sys
import types

import pytest
import skimage.data
import torch
from helpers.reference_pez import published_loop
from PIL import Image

import pics
from dataloaders import resize
from presets import PRESETS
from prompt_inversion.clip import load_clip
from prompt_inversion.options import PromptOptions
from prompt_inversion.rate import search_config
from prompt_inversion.search import PromptConfig, invert_prompts


def normalize_embeddings(embeddings):
    return embeddings / embeddings.norm(dim=1, keepdim=True).clamp_min(1e-12)


def dot_score(a, b):
    return a @ b.T


def semantic_search(
    query_embeddings,
    corpus_embeddings,
    query_chunk_size=100,
    corpus_chunk_size=500_000,
    top_k=10,
    score_function=None,
):
    """What sentence-transformers documents: for each query its top_k hits, the best one first."""
    found = []
    for queries in query_embeddings.split(query_chunk_size):
        best = score_function(queries, corpus_embeddings).topk(top_k)
        for scores, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            hits = zip(indices, scores, strict=True)
            found.append([{"corpus_id": index, "score": score} for index, score in hits])
    return found


@pytest.fixture(params=["stand-in", "sentence-transformers"])
def package(request, monkeypatch):
    """The package, and functions of the same documented behavior where it is not installed."""
    if request.param == "sentence-transformers":
        pytest.importorskip("sentence_transformers.util", reason="it is an optional package")
        return
    util = types.ModuleType("sentence_transformers.util")
    for function in (semantic_search, dot_score, normalize_embeddings):
        setattr(util, function.__name__, function)
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.ModuleType("stand_in"))
    monkeypatch.setitem(sys.modules, "sentence_transformers.util", util)


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setitem(sys.modules, "sentence_transformers.util", None)


@pytest.fixture(scope="module")
def clip():
    return load_clip(PRESETS["tiny"].clip, "cpu")


@pytest.fixture(scope="module")
def photos():
    return [resize(photo, 64) for photo in (skimage.data.coffee(), skimage.data.astronaut())]


@pytest.fixture(scope="module")
def expected(clip, photos):
    """Ids and cosine of 300 steps of the published loop, written out plainly."""
    torch.set_num_threads(1)
    config = PromptConfig(steps=300, descent=300)
    return published_loop(photos[0], clip, config, torch.Generator().manual_seed(config.seed))


def pez(clip, **options):
    return search_config(PromptOptions(search="pez", bits=0, **options), PRESETS["tiny"], clip, 30)


def test_pez_finds_the_ids_of_the_published_loop(package, clip, photos, expected):
    (found,) = invert_prompts(photos[:1], clip, pez(clip, steps=300))
    ids, cosine = expected
    assert found.ids == ids
    assert found.cosine == pytest.approx(cosine, abs=1e-5)


def test_pez_takes_its_tokens_from_the_package(package, clip, photos, monkeypatch):
    """Hits other than the nearest lead elsewhere: nothing of ours has chosen in their place."""
    util = sys.modules["sentence_transformers.util"]
    config = pez(clip, steps=3)
    nearest = invert_prompts(photos[:1], clip, config)
    search = util.semantic_search
    monkeypatch.setattr(
        util, "semantic_search", lambda queries, *given, **named: search(-queries, *given, **named)
    )
    assert invert_prompts(photos[:1], clip, config)[0].ids != nearest[0].ids


def test_pez_is_3000_steps_of_descent_unless_told_otherwise(package, clip):
    settings = pez(clip)
    assert (settings.steps, settings.descent, settings.published) == (3000, 3000, True)
    assert (settings.lr, settings.weight_decay, settings.length) == (0.1, 0.1, 16)
    assert (pez(clip, steps=70).steps, pez(clip, steps=70).descent) == (70, 70)


def test_fast_is_the_default_and_needs_no_package(no_package, clip):
    row = PRESETS["tiny"]
    default = search_config(PromptOptions(), row, clip, 30)
    assert default == search_config(PromptOptions(search="fast"), row, clip, 30)
    assert (default.steps, default.descent, default.published) == (row.prompt_steps, 60, False)


def test_a_photo_has_the_same_prompt_alone_and_in_a_batch(package, clip, photos):
    config = pez(clip, steps=20, length=5)
    together = invert_prompts(photos, clip, config)
    assert [invert_prompts([photo], clip, config)[0] for photo in photos] == together
    assert together[0].ids != together[1].ids


def test_a_missing_package_is_one_line_with_the_cure(no_package, photos, tmp_path, capsys):
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    argv = ["encode", str(tmp_path / "photo.png"), str(tmp_path / "photo.pics")]
    assert pics.main([*argv, "--prompt_search", "pez", "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the prompt search pez takes its nearest tokens from the package")
    assert line.endswith("is not installed: pip install sentence-transformers")


def test_another_search_is_refused():
    with pytest.raises(ValueError, match="unknown prompt search 'slow': choose one of fast, pez"):
        PromptOptions(search="slow")
