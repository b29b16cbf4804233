"""Photograph -> prompt: the token ids whose CLIP text features lie nearest to the photograph's.

    from prompt_inversion import PromptConfig, invert_prompts, load_clip
    clip = load_clip("tiny/bundle/clip", "cpu")
    for prompt in invert_prompts(photographs, clip, PromptConfig(steps=300)):
        print(prompt.ids, prompt.cosine, clip.decode(prompt.ids))

The ids are the prompt; the text is for people and does not lead back to them.
"""

from prompt_inversion.clip import Clip, load_clip
from prompt_inversion.rate import within_bytes
from prompt_inversion.search import Prompt, PromptConfig, invert_prompts, search
from prompt_inversion.words import sub_vocabulary

__all__ = ["Clip", "Prompt", "PromptConfig", "invert_prompts", "load_clip", "search", "sub_vocabulary", "within_bytes"]
