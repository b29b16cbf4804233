"""The published prompt search, for comparison, and text towers of random weights to time it with.

    loop = PublishedLoop(target, random_clip("ViT-B/32", "cpu"))
    ids, cosine = loop.step()

The search is written from its description (Wen et al. 2023, arXiv 2302.03668): one image at a time,
all 77 positions, two forward passes, the vocabulary normalized at every step, hits as Python lists.
Towers of random weights (transformers' configs) take the time that trained ones take.
"""

import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from prompt_inversion.clip import Clip

LENGTH = 16  # tokens


class Shape(NamedTuple):
    """Sizes of a text tower."""

    width: int
    layers: int
    heads: int
    features: int
    vocab_size: int
    positions: int
    activation: str


SHAPES = {
    "tiny": Shape(192, 2, 4, 192, 2048, 32, "quick_gelu"),
    "ViT-B/32": Shape(512, 12, 8, 512, 49408, 77, "quick_gelu"),
    "ViT-L/14": Shape(768, 12, 12, 768, 49408, 77, "quick_gelu"),
    "ViT-H/14": Shape(1024, 24, 16, 1024, 49408, 77, "gelu"),
}


def random_clip(name: str, device: str) -> Clip:
    """Return a Clip with a text tower of random weights. name: a key of SHAPES."""
    shape = SHAPES[name]
    text = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "hidden_act": shape.activation,
        "max_position_embeddings": shape.positions,
        "vocab_size": shape.vocab_size,
        "bos_token_id": shape.vocab_size - 2,
        "eos_token_id": shape.vocab_size - 1,
        "pad_token_id": shape.vocab_size - 1,
    }
    vision = {  # not used
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    config = CLIPConfig(text_config=text, vision_config=vision)
    config.projection_dim = shape.features
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float16 if device.startswith("cuda") else torch.float32)
        model = CLIPModel(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    return Clip(model, _AnyTokenizer(shape.vocab_size), None)


class _AnyTokenizer:
    """What a search needs of a tokenizer; all tokens but start and end are printable."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.bos_token_id = vocab_size - 2
        self.eos_token_id = vocab_size - 1
        self.all_special_ids = [self.bos_token_id, self.eos_token_id]

    def __len__(self) -> int:
        return self.vocab_size

    def batch_decode(self, ids, **_) -> list[str]:
        return ["word"] * len(ids)

    def decode(self, ids, **_) -> str:
        return " ".join(map(str, ids))


class PublishedLoop:
    """The published search of one image.

    target: unit features (1, d) of the image.
    """

    def __init__(self, target: torch.Tensor, clip: Clip, seed: int = 0):
        self.clip = clip
        self.target = target
        text = clip.model.text_model
        self.positions = text.config.max_position_embeddings
        self.embedding = text.embeddings.token_embedding
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(len(clip.printable), (LENGTH,), generator=generator)
        start = clip.printable[start.to(target.device)]
        self.soft = self.embedding.weight[start].float()[None].clone().requires_grad_()
        self.optimizer = torch.optim.AdamW([self.soft], lr=0.1, weight_decay=0.1)
        ids = [clip.tokenizer.bos_token_id, *[0] * LENGTH, clip.tokenizer.eos_token_id]
        ids += [0] * (self.positions - len(ids))
        self.dummy = self.embedding(torch.tensor([ids], device=target.device))

    def step(self) -> tuple[list[int], float]:
        """Take one step; return the ids before it and their cosine.

        Projection, a forward pass that measures the tokens, then a second forward and a backward
        pass, and AdamW.
        """
        ids = self._project()
        embedded = self.embedding(torch.tensor([ids], device=self.target.device))
        with torch.no_grad():
            cosine = (self._features(embedded) * self.target).sum().item()
        hard = embedded.clone().requires_grad_()
        loss = 1 - (self._features(hard) * self.target).sum(dim=-1).mean()
        self.soft.grad = torch.autograd.grad(loss, [hard])[0].float()
        self.optimizer.step()
        self.clip.tokenizer.decode(ids)
        return ids, cosine

    @torch.no_grad()
    def _project(self) -> list[int]:
        """Return the nearest token of each position."""
        rows = F.normalize(self.embedding.weight.float(), dim=-1)
        scores = F.normalize(self.soft[0], dim=-1) @ rows.T
        # The published loop lets special tokens through; they are excluded here, so that the ids
        # are the same as ours.
        scores[:, self.clip.tokenizer.all_special_ids] = -torch.inf
        if len(self.clip.printable) < scores.shape[1] - 2:  # a trained CLIP: unprintable tokens too
            barred = torch.ones_like(scores[0], dtype=torch.bool)
            barred[self.clip.printable] = False
            scores[:, barred] = -torch.inf
        values, indices = scores.topk(1, dim=-1)
        hits = []
        for row, own in zip(indices.tolist(), values.tolist(), strict=True):
            pairs = zip(row, own, strict=True)
            hits.append([{"corpus_id": i, "score": score} for i, score in pairs])
        return [hit[0]["corpus_id"] for hit in hits]

    def _features(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return the unit features (1, d) of the embeddings (1, LENGTH, width) of a prompt."""
        text = self.clip.model.text_model
        padded = torch.cat([self.dummy[:, :1], embedded, self.dummy[:, LENGTH + 1 :]], dim=1)
        square = (self.positions, self.positions)
        causal = torch.full(square, -torch.inf, device=padded.device, dtype=padded.dtype).triu(1)
        hidden = text.embeddings(inputs_embeds=padded)
        hidden = text.encoder(hidden, attention_mask=causal[None, None]).last_hidden_state
        pooled = text.final_layer_norm(hidden)[:, LENGTH + 1]
        return F.normalize(self.clip.model.text_projection(pooled).float(), dim=-1)


def timed_steps(loop: PublishedLoop, count: int) -> tuple[list[float], list[tuple]]:
    """Take steps; return the seconds of each and what each returned."""
    seconds, found = [], []
    with torch.enable_grad():
        for _ in range(count):
            begun = time.perf_counter()
            found.append(loop.step())
            seconds.append(time.perf_counter() - begun)
    return seconds, found
