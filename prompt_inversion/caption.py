"""Photograph -> a sentence that describes it, by BLIP.

    from prompt_inversion.caption import load_captioner
    captioner = load_captioner("Salesforce/blip-image-captioning-base", "cuda")
    print(captioner.describe([photograph]))

Source: Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training", arXiv 2201.12086.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import torch
from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessor

from presets import from_mirrors

WORDS = 30  # tokens a caption has at most; BLIP's own captions have about 10
BEAMS = 3  # of the search for the likeliest caption, as in BLIP's own evaluation


@dataclass(frozen=True, eq=False)
class Captioner:
    """A BlipForConditionalGeneration with the image processor and the tokenizer that came with it."""

    model: BlipForConditionalGeneration  # eval mode
    processor: BlipImageProcessor
    tokenizer: BertTokenizer

    def describe(self, images: Sequence[np.ndarray]) -> list[str]:
        """A caption of each photograph (HxWx3 uint8, any sizes): one line, lower case.

        One photograph at a time and without chance, so that its caption does not depend on the others.
        """
        return [self._describe(image) for image in images]

    @torch.inference_mode()
    def _describe(self, image: np.ndarray) -> str:
        image = np.array(image, order="C")  # a copy, since torch refuses flipped arrays
        pixels = self.processor(images=image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        pixels = pixels.to(self.model.device, self.model.dtype)  # (1, 3, side, side)
        ids = self.model.generate(pixel_values=pixels, max_new_tokens=WORDS, num_beams=BEAMS, do_sample=False)
        return " ".join(self.tokenizer.decode(ids[0], skip_special_tokens=True).split())


def load_captioner(sources: str | PathLike | Sequence[str | PathLike], device: str | torch.device) -> Captioner:
    """A Captioner on `device`, in float16 on a CUDA device and float32 elsewhere.

    `sources` is one source or several tried in order, each a local folder in the layout of `save_pretrained` or a hub
    id "owner/name[@revision]". Raises presets.PresetError when none of them loads.
    """
    if isinstance(sources, str | PathLike):
        sources = [sources]
    return from_mirrors(lambda *where: _load(*where, device), [str(s) for s in sources], "captioner")


def _load(source: str, revision: str | None, device: str | torch.device) -> Captioner:
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    model, found = BlipForConditionalGeneration.from_pretrained(
        source, revision=revision, dtype=dtype, output_loading_info=True
    )  # the published weights are a PyTorch file, which transformers reads without unpickling code
    if missing := sorted([*found["missing_keys"], *found["mismatched_keys"]]):
        raise ValueError(f"{source} lacks {len(missing)} weights of a captioner, such as {missing[0]}")
    processor = BlipImageProcessor.from_pretrained(source, revision=revision)
    tokenizer = BertTokenizer.from_pretrained(source, revision=revision)
    return Captioner(model.eval().requires_grad_(False).to(device), processor, tokenizer)
