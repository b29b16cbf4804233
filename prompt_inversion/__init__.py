"""Image -> prompt: a search for token ids whose CLIP features are near the image's, or a text.

    from prompt_inversion.clip import load_clip
    from prompt_inversion.search import PromptConfig, invert_prompts
    clip = load_clip("tiny/bundle/clip", "cpu")
    for prompt in invert_prompts(images, clip, PromptConfig(steps=300)):
        print(prompt.ids, prompt.cosine, clip.decode(prompt.ids))

The ids are the prompt; their text is for people and does not lead back to them. Nothing is
imported here, so that the flags (`options.py`) do not wait for torch.
"""
