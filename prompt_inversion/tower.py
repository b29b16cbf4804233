"""The text tower of a CLIP from word embeddings to features, without the work that a prompt search can spare.

    tower = TextTower(clip)
    features = tower(clip.model.text_model.embeddings.token_embedding(ids))

The tower is causal: nothing behind the end token reaches it, so of the published search's 77 positions those of the
prompt and its end are left; the start token sees only itself, so its keys and values are computed once; and behind
the last layer's attention only the end token's position goes on, for no other is read.
"""

import math

import torch
import torch.nn.functional as F

from prompt_inversion.clip import Clip
from prompt_inversion.linear import STEADY_ROWS, linear, steady


class TextTower:
    """Word embeddings (n, length, width) -> features (n, d) float32 of unit length; differentiable.

    Uses the weights of `clip` where they are and copies none. On a CPU a prompt's features do not depend on the other
    prompts of the batch, to the last bit.
    """

    def __init__(self, clip: Clip):
        self.text, self.projection = clip.model.text_model, clip.model.text_projection.weight
        words, places = self.text.embeddings.token_embedding.weight, self.text.embeddings.position_embedding.weight
        self.places = places[1:]
        self.end = words[clip.tokenizer.eos_token_id]
        self.before = []  # keys and values (1, heads, 1, size) of the start token, a pair a layer
        self._start(words[clip.tokenizer.bos_token_id] + places[0])

    def __call__(self, embedded: torch.Tensor) -> torch.Tensor:
        """Features of prompts given by their word embeddings, without start and end."""
        n, length = embedded.shape[:2]
        embedded = steady(embedded, n * (length + 1))
        x = torch.cat([embedded, self.end.expand(len(embedded), 1, -1)], dim=1) + self.places[: length + 1]
        mask = torch.ones(length + 1, length + 2, dtype=torch.bool, device=x.device).tril(1)
        kept = math.ceil(STEADY_ROWS / len(x))  # positions that go on behind the last attention
        for i, layer in enumerate(self.text.encoder.layers):
            seen = self._attention(layer, x, self.before[i], mask)
            if i + 1 == len(self.before):
                x, seen = x[:, -kept:].contiguous(), seen[:, -kept:].contiguous()  # else few rows at a time
            x = _mixed(layer, x, seen)
        features = linear(self.text.final_layer_norm(x), self.projection)[:n, -1]
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def _start(self, x: torch.Tensor) -> None:
        x = x[None, None]
        for layer in self.text.encoder.layers:
            normed = layer.layer_norm1(x)
            values = _by(layer.self_attn.v_proj, normed)  # the start token sees itself alone: all attention is on it
            self.before.append((_heads(layer, _by(layer.self_attn.k_proj, normed)), _heads(layer, values)))
            x = _mixed(layer, x, values)

    def _attention(self, layer, x: torch.Tensor, before: tuple, mask: torch.Tensor) -> torch.Tensor:
        normed, attention = layer.layer_norm1(x), layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (_heads(layer, _by(projection, normed)) for projection in projections)
        key = torch.cat([before[0].expand(len(x), -1, -1, -1), key], dim=2)
        value = torch.cat([before[1].expand(len(x), -1, -1, -1), value], dim=2)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scale)
        return seen.transpose(1, 2).flatten(2)


def _mixed(layer, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The rest of a layer, (n, positions, width), where its attention saw `seen`."""
    x = x + _by(layer.self_attn.out_proj, seen)
    inner = layer.mlp.activation_fn(_by(layer.mlp.fc1, layer.layer_norm2(x)))
    return x + _by(layer.mlp.fc2, inner)


def _by(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return linear(x, module.weight, module.bias)


def _heads(layer, x: torch.Tensor) -> torch.Tensor:
    """(n, positions, width) -> (n, heads, positions, size)."""
    return x.unflatten(-1, (-1, layer.self_attn.head_dim)).transpose(1, 2)
