"""The text tower of a CLIP, token embeddings -> features, with only the work that a search needs.

    tower = TextTower(clip)
    features = tower(clip.model.text_model.embeddings.token_embedding(ids))

The tower is causal, which saves three things:

- Nothing behind the end token has an effect on it. So only the positions of the prompt and of the
  end token are computed, not the published search's 77.
- The start token sees only itself. So its keys and values are computed once.
- Only the end token's result is read. So the other positions are dropped after the last layer's
  attention.
"""

import math

import torch
import torch.nn.functional as F

from prompt_inversion.clip import Clip
from prompt_inversion.linear import STEADY_ROWS, linear, repeat_to_steady


class TextTower:
    """Token embeddings (n, length, width) -> features (n, d) float32 of unit length.

    Differentiable. Uses the weights of `clip` in place. On a CPU the features of a prompt do not
    depend on the other prompts of the batch, to the last bit (see STEADY_ROWS).
    """

    def __init__(self, clip: Clip):
        self.text = clip.model.text_model
        self.projection = clip.model.text_projection.weight
        tokens = self.text.embeddings.token_embedding.weight
        positions = self.text.embeddings.position_embedding.weight
        self.tokens = tokens
        self.positions = positions[1:]
        self.end = tokens[clip.tokenizer.eos_token_id]
        # Keys and values (1, heads, 1, size) of the start token: a pair for each layer.
        self.start = self._start(tokens[clip.tokenizer.bos_token_id] + positions[0])

    def __call__(self, embedded: torch.Tensor) -> torch.Tensor:
        """Return the features of prompts without start and end token."""
        n, length = embedded.shape[:2]
        embedded = repeat_to_steady(embedded, n * (length + 1))
        end = self.end.expand(len(embedded), 1, -1)
        x = torch.cat([embedded, end], dim=1) + self.positions[: length + 1]
        mask = torch.ones(length + 1, length + 2, dtype=torch.bool, device=x.device).tril(1)
        *layers, last = self.text.encoder.layers
        *start, last_start = self.start
        for layer, before in zip(layers, start, strict=True):
            x = _after_attention(layer, x, _attention(layer, x, before, mask))
        attended = _attention(last, x, last_start, mask)
        # The end token is the last position; as many as make STEADY_ROWS rows are kept with it.
        kept = math.ceil(STEADY_ROWS / len(x))
        x = _after_attention(last, x[:, -kept:].contiguous(), attended[:, -kept:].contiguous())
        features = linear(self.text.final_layer_norm(x), self.projection)[:n, -1]
        return F.normalize(features.float(), dim=-1)

    @torch.enable_grad()
    def gradient(
        self, ids: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cosines (n,) of ids (n, length), and the gradient at their embeddings.

        targets: unit features (n, d). The gradient is of -cosine, (n, length, width) float32.
        """
        embedded = F.embedding(ids, self.tokens).requires_grad_()
        cosines = (self(embedded) * targets).sum(dim=-1)
        # A sum, since no prompt has an effect on another's cosine.
        (gradient,) = torch.autograd.grad(-cosines.sum(), embedded)
        return cosines.detach(), gradient.float()

    @torch.no_grad()
    def cosines(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cosines (n,) of ids (n, length) and unit features (n, d)."""
        return (self(F.embedding(ids, self.tokens)) * targets).sum(dim=-1)

    @torch.no_grad()
    def _start(self, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return keys and values of the start token for each layer, of its embedding (width,)."""
        found = []
        x = x[None, None]
        for layer in self.text.encoder.layers:
            normed = layer.layer_norm1(x)
            keys = _project(layer.self_attn.k_proj, normed)
            # The start token sees only itself, so its values are the result of its attention.
            values = _project(layer.self_attn.v_proj, normed)
            found.append((_heads(layer, keys), _heads(layer, values)))
            x = _after_attention(layer, x, values)
        return found


def _attention(layer, x: torch.Tensor, start: tuple, mask: torch.Tensor) -> torch.Tensor:
    """Return the result of a layer's attention, (n, positions, width), before its output layer."""
    normed = layer.layer_norm1(x)
    attention = layer.self_attn
    query = _heads(layer, _project(attention.q_proj, normed))
    key = _heads(layer, _project(attention.k_proj, normed))
    value = _heads(layer, _project(attention.v_proj, normed))
    start_key, start_value = start
    key = torch.cat([start_key.expand(len(x), -1, -1, -1), key], dim=2)
    value = torch.cat([start_value.expand(len(x), -1, -1, -1), value], dim=2)
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=attention.scale
    )
    return attended.transpose(1, 2).flatten(2)


def _after_attention(layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """Return the rest of a layer, (n, positions, width), of its input and attention's result."""
    x = x + _project(layer.self_attn.out_proj, attended)
    inner = layer.mlp.activation_fn(_project(layer.mlp.fc1, layer.layer_norm2(x)))
    return x + _project(layer.mlp.fc2, inner)


def _project(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return linear(x, module.weight, module.bias)


def _heads(layer, x: torch.Tensor) -> torch.Tensor:
    """(n, positions, width) -> (n, heads, positions, size)."""
    return x.unflatten(-1, (-1, layer.self_attn.head_dim)).transpose(1, 2)
