"""Image -> a sentence that describes it, by BLIP.

    from prompt_inversion.caption import load_captioner
    captioner = load_captioner("Salesforce/blip-image-captioning-base", "cuda")
    print(captioner.describe([image]))

Source: Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training", arXiv 2201.12086.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch

from pretrained.libraries import lean
from pretrained.model_folders import check_processor, one_error, quietly
from prompt_inversion.loading import load_first, load_model

with lean():
    from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessor
    from transformers.utils import logging as transformers_logging

MAX_TOKENS = 30  # of a caption; BLIP's own captions have about 10
BEAMS = 3  # of the search for the most probable caption, as in BLIP's own evaluation


@dataclass(frozen=True, eq=False)
class Captioner:
    """A BlipForConditionalGeneration with its own image processor and tokenizer."""

    model: BlipForConditionalGeneration  # eval mode
    processor: BlipImageProcessor
    tokenizer: BertTokenizer

    def describe(self, images: Sequence[np.ndarray]) -> list[str]:
        """Return a caption of each image, uint8 (H, W, 3) of any sizes: one line, lower case.

        One image at a time and without sampling, so that a caption does not depend on the other
        images. Raises ValueError for whatever the model raises.
        """
        with one_error("captioner"):
            return [self._describe(image) for image in images]

    @torch.inference_mode()
    def _describe(self, image: np.ndarray) -> str:
        image = np.array(image, order="C")  # a copy, since torch refuses flipped arrays
        inputs = self.processor(
            images=image, return_tensors="pt", input_data_format="channels_last"
        )
        pixels = inputs["pixel_values"]  # (1, 3, side, side)
        ids = self.model.generate(
            pixel_values=pixels.to(self.model.device, self.model.dtype),
            max_new_tokens=MAX_TOKENS,
            num_beams=BEAMS,
            do_sample=False,
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
    # The published weights are a PyTorch file, which transformers reads without unpickling code.
    model = load_model(BlipForConditionalGeneration, source, device, "captioner", **where)
    with one_error("image processor"):
        processor = BlipImageProcessor.from_pretrained(source, **where)
        check_processor(processor, model.config.vision_config.image_size)
    with one_error("tokenizer"):
        tokenizer = BertTokenizer.from_pretrained(source, **where)
        tokenizer.decode([0])
    return Captioner(model, processor, tokenizer)
