"""Image -> a sentence that describes it, by BLIP or Florence-2.

    from prompt_inversion.caption import load_captioner
    captioner = load_captioner("florence-community/Florence-2-base", "cuda")
    print(captioner.describe([image]))

Sources: Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training", arXiv 2201.12086; Xiao
et al. 2023, "Florence-2: Advancing a Unified Representation for a Variety of Vision Tasks",
arXiv 2311.06242, in the layout of transformers (not that of microsoft/Florence-2-base, which holds
code).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike

import numpy as np
import torch

from presets.row import shortened
from pretrained.libraries import lean
from pretrained.model_folders import check_processor, local_folder, one_error, quietly
from prompt_inversion.loading import load_first, load_model

with lean():
    from transformers import (
        BertTokenizer,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )
    from transformers.utils import logging as transformers_logging

MAX_TOKENS = 30  # of a caption; BLIP's own captions have about 10
BEAMS = 3  # of the search for the most probable caption, as in both models' own evaluation
TASK = "<CAPTION>"  # of Florence-2: one sentence


@dataclass(frozen=True, eq=False)
class Captioner:
    """A model that writes a sentence about a picture, with its own processor and tokenizer."""

    model: PreTrainedModel  # eval mode
    inputs: Callable[[np.ndarray], Mapping[str, torch.Tensor]]  # of an image, for `model.generate`
    tokenizer: PreTrainedTokenizerBase

    def describe(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return a caption of each image, uint8 (H, W, 3) of any sizes: one line.

        One image at a time and without sampling, so that a caption does not depend on the other
        images. Raises ValueError for whatever the model raises.
        """
        with one_error("captioner"):
            return [self._describe(image) for image in images]

    @torch.inference_mode()
    def _describe(self, image: np.ndarray) -> str:
        image = np.array(image, order="C")  # a copy, since torch refuses flipped arrays
        inputs = {name: given.to(self.model.device) for name, given in self.inputs(image).items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        ids = self.model.generate(
            **inputs, max_new_tokens=MAX_TOKENS, num_beams=BEAMS, do_sample=False
        )
        text = self.tokenizer.decode(ids[0], skip_special_tokens=True)
        return " ".join(text.split())


def load_captioner(
    sources: str | PathLike | Sequence[str | PathLike], device: str | torch.device
) -> Captioner:
    """Return a Captioner on `device`, in float16 on a CUDA device and float32 elsewhere.

    sources: one source or several tried in order, each a local folder in the layout of
        `save_pretrained` or a hub id "owner/name[@revision]".

    Raises UnavailableError if none of them loads.
    """
    return load_first(_load, sources, device, "captioner")


@quietly(transformers_logging)
def _load(source: str, device: str | torch.device, **where) -> Captioner:
    """Load one source; where: `revision` and `local_files_only` of from_pretrained."""
    local_folder(source)
    with one_error("captioner"):
        config, _ = PreTrainedConfig.get_config_dict(source, **where)
    kind = config.get("model_type", "blip")
    if kind not in LOADERS:
        raise ValueError(f"{source} is a {shortened(kind)}, not one of {', '.join(LOADERS)}")
    return LOADERS[kind](source, device, **where)


def _load_blip(source: str, device: str | torch.device, **where) -> Captioner:
    # The published weights are a PyTorch file, which transformers reads without unpickling code.
    model = load_model(BlipForConditionalGeneration, source, device, "captioner", **where)
    with one_error("image processor"):
        processor = BlipImageProcessor.from_pretrained(source, **where)
        check_processor(processor, model.config.vision_config.image_size)
    with one_error("tokenizer"):
        tokenizer = BertTokenizer.from_pretrained(source, **where)
        tokenizer.decode([0])
    inputs = partial(processor, return_tensors="pt", input_data_format="channels_last")
    return Captioner(model, inputs, tokenizer)


def _load_florence(source: str, device: str | torch.device, **where) -> Captioner:
    model = load_model(Florence2ForConditionalGeneration, source, device, "captioner", **where)
    with one_error("processor"):
        processor = Florence2Processor.from_pretrained(source, **where)
        pictures = processor.image_processor
        check_processor(pictures, pictures.size["height"])
        inputs = partial(
            processor, text=TASK, return_tensors="pt", input_data_format="channels_last"
        )
        inputs(np.zeros((60, 60, 3), np.uint8))
    return Captioner(model, inputs, processor.tokenizer)


LOADERS = {"blip": _load_blip, "florence2": _load_florence}  # by "model_type"
