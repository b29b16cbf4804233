"""The prompt search written out plainly: what `prompt_inversion` does to be fast changes no ids.

One image, the whole text tower with all its positions, the whole vocabulary normalized at
every step, two forward passes, AdamW by hand, one proposed swap at a time.
"""

import torch
import torch.nn.functional as F


def features(embedded, clip):
    """Features (1, d) of a prompt's embeddings (1, length, width), end tokens up to the last
    position.
    """
    text = clip.model.text_model
    n = text.config.max_position_embeddings
    start, end = clip.tokenizer.bos_token_id, clip.tokenizer.eos_token_id
    ids = torch.tensor([[start, *[0] * embedded.shape[1], *[end] * (n - 1 - embedded.shape[1])]])
    whole = text.embeddings.token_embedding(ids)
    whole = torch.cat([whole[:, :1], embedded, whole[:, 1 + embedded.shape[1] :]], dim=1)
    causal = torch.full((1, 1, n, n), -torch.inf).triu(1)
    hidden = text.encoder(
        text.embeddings(inputs_embeds=whole), attention_mask=causal
    ).last_hidden_state
    return clip.model.text_projection(text.final_layer_norm(hidden)[:, embedded.shape[1] + 1])


def published_loop(image, clip, config, generator):
    """(ids, cosine) after `config.descent` steps of Wen et al. 2023, 2302.03668, algorithm 1."""
    target = clip.image_features([image])
    table = clip.model.text_model.embeddings.token_embedding.weight
    start = torch.randint(len(clip.printable), (config.length,), generator=generator)
    soft = table[clip.printable[start]][None]
    mean, square = torch.zeros_like(soft), torch.zeros_like(soft)
    best = ((), -2.0)
    for step in range(1, config.descent + 1):
        scores = F.normalize(soft, dim=-1) @ F.normalize(table, dim=-1).T  # (1, length, vocabulary)
        banned = torch.ones(len(table), dtype=torch.bool)
        banned[clip.printable] = False
        ids = scores.masked_fill(banned, -torch.inf).argmax(dim=-1)
        # Forward and backward at the projection, step at the soft prompt.
        hard = table[ids].clone().requires_grad_()
        loss = 1 - F.cosine_similarity(features(hard, clip), target).mean()
        (gradient,) = torch.autograd.grad(loss, hard)
        # AdamW
        soft = soft * (1 - config.lr * config.weight_decay)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        soft = soft - config.lr * (mean / (1 - 0.9**step)) / (
            (square / (1 - 0.999**step)).sqrt() + 1e-8
        )
        # Judge the words with a second forward.
        cosine = F.cosine_similarity(features(table[ids], clip), target).item()
        if cosine > best[1]:
            best = (tuple(ids[0].tolist()), cosine)
    return best


def swapping_loop(image, clip, config, generator, best, rounds):
    """Zou et al. 2023, arXiv 2307.15043, algorithm 1, from `best` on; each place has its turn in a
    round.
    """
    target = clip.image_features([image])
    table = clip.model.text_model.embeddings.token_embedding.weight
    for _ in range(rounds):
        hard = table[list(best[0])][None].clone().requires_grad_()
        loss = 1 - F.cosine_similarity(features(hard, clip), target).mean()
        (gradient,) = torch.autograd.grad(loss, hard)
        scores = -gradient[0] @ table[clip.printable].T
        proposed = scores.topk(config.among).indices  # (length, among)
        places = [*range(config.length)] * (config.swaps // config.length)
        order = torch.randperm(config.length, generator=generator).tolist()
        places += order[: config.swaps % config.length]
        ranks = torch.randint(config.among, (config.swaps,), generator=generator).tolist()
        start = best[0]
        for place, rank in zip(places, ranks, strict=True):
            token_id = clip.printable[proposed[place, rank]].item()
            ids = [*start[:place], token_id, *start[place + 1 :]]
            cosine = F.cosine_similarity(features(table[ids][None], clip), target).item()
            if cosine > best[1]:
                best = (tuple(ids), cosine)
    return best
