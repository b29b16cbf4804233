"""Pipelines and ControlNets, loaded from a source with every weight checked, and named by hash.

    pipeline = load_pipeline("owner/name", None, local_files_only=False)
    weights_name("/folder", ["/folder", "owner/name"])

A source is a local folder or a hub id. transformers fills weights that a file lacks with random
numbers and only reports it; diffusers leaves them on the "meta" device. Both are errors here.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

HASHED_BYTES = 200_000_000  # the files of larger folders are named by their sizes alone


@contextmanager
def quietly() -> Iterator[None]:
    """Show no progress bars and warnings while a checkpoint is loaded."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [logging.get_verbosity() for logging in libraries]
    for logging in libraries:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, level in zip(libraries, levels, strict=True):
            logging.set_verbosity(level)


def load_pipeline(
    source: str, revision: str | None, local_files_only: bool
) -> diffusers.StableDiffusionPipeline:
    """Load a text-to-image pipeline on the CPU, in float32 and without a safety checker.

    Raises ValueError if weights are missing, and the errors of the libraries.
    """
    where = {"revision": revision, "local_files_only": local_files_only}
    encoder, report = transformers.CLIPTextModel.from_pretrained(
        source,
        subfolder="text_encoder",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **where,
    )
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    _refuse_missing("text encoder", [*report["missing_keys"], *mismatched])
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        source,
        text_encoder=encoder,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        low_cpu_mem_usage=True,
        **where,
    )
    _refuse_missing("unet", _without_data(pipeline.unet))
    _refuse_missing("vae", _without_data(pipeline.vae))
    # One image at a time: less memory, and the same result in any batch.
    pipeline.vae.enable_slicing()
    # The layout in which convolutions compute: a fifth less time.
    pipeline.unet.to(memory_format=torch.channels_last)
    return pipeline


def load_controlnet(
    source: str, revision: str | None, local_files_only: bool
) -> diffusers.ControlNetModel:
    """Load a ControlNet on the CPU, in float32. Raises as `load_pipeline`."""
    model = diffusers.ControlNetModel.from_pretrained(
        source, revision=revision, local_files_only=local_files_only, low_cpu_mem_usage=True
    )
    _refuse_missing("network", _without_data(model))
    return model


def _without_data(model: torch.nn.Module) -> list[str]:
    """Return the names of the weights that the file of a diffusers model does not hold."""
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def _refuse_missing(part: str, missing: Sequence[str]) -> None:
    """Raise ValueError if weights are missing from a part of the model."""
    if missing:
        names = ", ".join(sorted(missing)[:3])
        raise ValueError(
            f"its {part} lacks {len(missing)} weights or has them in other shapes: {names}"
        )


def weights_name(source: str, sources: Sequence[str]) -> str:
    """Return a name for the weights of the one of `sources` that was loaded.

    A local folder is named by a hash of its files, a model of the hub by the first hub id of
    `sources`, since mirrors hold the same weights.
    """
    folder = Path(source)
    if not folder.exists():
        return next(other for other in sources if not Path(other).exists())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with_content = sum(path.stat().st_size for path in files) < HASHED_BYTES
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue  # download caches and the desktop's own files
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        if with_content:
            digest.update(path.read_bytes())
    return digest.hexdigest()
