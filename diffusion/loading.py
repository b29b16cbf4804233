"""Pipelines and ControlNets, loaded from a source with every weight checked, and named by hash.

    pipeline = load_pipeline("owner/name", None, local_files_only=False)
    weights_name("/folder", ["/folder", "owner/name"])

A source is a local folder or a hub id. transformers fills weights that a file lacks with random
numbers and only reports it; diffusers leaves them on the "meta" device. Both are errors here.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from diffusion.library import (
    CLIPTextModel,
    ControlNetModel,
    SchedulerMixin,
    StableDiffusionPipeline,
    diffusers,
    diffusers_logging,
    transformers,
    transformers_logging,
)
from pretrained.hub import announce_fetch, announce_weights, is_here, listing, weight_file
from pretrained.libraries import without_draws
from pretrained.model_folders import (
    check_config,
    check_numbers,
    check_size,
    check_transformers,
    clip_tokenizer,
    local_folder,
    one_error,
)

NETWORK = "diffusion_pytorch_model"  # a file of weights of diffusers, without ending
STEMS = (f"unet/{NETWORK}", f"vae/{NETWORK}", "text_encoder/model")  # of a pipeline's weights
HALF = "fp16"  # in the names of files with weights in float16
LIBRARIES = (diffusers_logging, transformers_logging)  # for `quietly`
HASHED_BYTES = 200_000_000  # larger folders were named by the sizes of their files alone
TEXT_FILES = (".json", ".md", ".txt")  # that Git may give the line ends of the machine
MOST_IN_SCHEDULER = 100_000  # of the whole numbers in its configuration
# The parts of a model and their classes. Others (a safety checker) are named and not loaded.
PARTS = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL")),
    "text_encoder": ("transformers", ("CLIPTextModel", "CLIPTextModelWithProjection")),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
}
# Pipelines of Stable Diffusion 1 and 2, and what those of later families have beside it.
FAMILY = "StableDiffusion(?!XL|3)|LatentConsistencyModel"
OTHER_PARTS = ("text_encoder_2", "transformer")
OTHER_CONDITIONS = ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type")
ONLY = "only models of the family of Stable Diffusion 1 and 2 can be drawn with"
NOT_LOADED = (
    [None, None],
    ["stable_diffusion", "StableDiffusionSafetyChecker"],
    ["transformers", "CLIPFeatureExtractor"],  # an older name of an image processor
)


def load_pipeline(
    source: str,
    revision: str | None,
    local_files_only: bool,
    half: bool = False,
    what: str = "text-to-image model",
) -> StableDiffusionPipeline:
    """Load a text-to-image pipeline on the CPU, in float32 and without a safety checker.

    half: it is going to compute in float16, and may be read from files of such weights. what: it is
    called when it is fetched.
    Its files, classes and sizes are checked before a library makes any of it. Raises ValueError if
    they are refused or if weights are missing, OSError or ImportError for what cannot be read.
    """
    where = {"revision": revision, "local_files_only": local_files_only}
    folder = local_folder(source)
    with one_error("model_index.json"):
        index = StableDiffusionPipeline.load_config(source, **where)
        check_index(index)
    _check_parts(index, source, folder, where)
    if folder is None:
        where["variant"] = fetched_variant(what, source, revision, local_files_only, half)
    encoder = _load_text_encoder(source, where)
    size = encoder.config.vocab_size
    read = {"revision": revision, "local_files_only": local_files_only}
    tokenizer = clip_tokenizer(source, size, subfolder="tokenizer", **read)
    with one_error("scheduler"):
        kind = getattr(diffusers, index["scheduler"][1])
        scheduler = kind.from_pretrained(source, subfolder="scheduler", **read)
    with one_error("unet or vae"):
        pipeline = StableDiffusionPipeline.from_pretrained(
            source,
            text_encoder=encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
            low_cpu_mem_usage=True,
            **where,
        )
    _check_whole(pipeline)
    # One image at a time: less memory, and the same result in any batch.
    pipeline.vae.enable_slicing()
    # The layout in which convolutions compute: a fifth less time.
    pipeline.unet.to(memory_format=torch.channels_last)
    return pipeline


def load_controlnet(
    source: str, revision: str | None, local_files_only: bool, what: str = "ControlNet"
) -> ControlNetModel:
    """Load a ControlNet on the CPU, in float32; as `load_pipeline`."""
    where = {"revision": revision, "local_files_only": local_files_only}
    folder = local_folder(source)
    with one_error("ControlNet"):
        _check_model(ControlNetModel, source, folder, where)
        if folder is None and not local_files_only:
            announce_weights(what, source, revision, [NETWORK])
        model = ControlNetModel.from_pretrained(source, low_cpu_mem_usage=True, **where)
        _refuse_missing("network", _without_data(model))
    return model


def fetched_variant(
    what: str, source: str, revision: str | None, local_files_only: bool, half: bool
) -> str | None:
    """Return which files of a pipeline of the hub are read, and say what has to be fetched.

    Those are "fp16", half as large, if `half` and if the repository has them for all parts and not
    all others are here already; otherwise None. Arguments as of `load_pipeline`.
    """
    plain = [f"{stem}.safetensors" for stem in STEMS]
    small = [f"{stem}.{HALF}.safetensors" for stem in STEMS]
    if all(is_here(source, revision, file) for file in plain):
        return None
    if half and all(is_here(source, revision, file) for file in small):
        return HALF
    if local_files_only:
        return None
    files = listing(source, revision)
    halved = half and set(small) <= set(files)
    chosen = small if halved else [weight_file(files, stem) for stem in STEMS]
    announce_fetch(what, source, revision, {file: files.get(file, 0) for file in chosen})
    return HALF if halved else None


def check_index(index: object) -> None:
    """Raise ValueError unless a model_index.json names classes of diffusers and transformers alone.

    The loader would import a module of any other name, from the folder if it is there.
    """
    if not isinstance(index, dict) or not isinstance(index.get("_class_name", ""), str):
        raise ValueError('it must be an object whose "_class_name" is the name of one pipeline')
    _check_family(index)
    for part, named in index.items():
        if isinstance(named, list) and named not in NOT_LOADED:
            _check_class(part, named)
    for part, (library, names) in PARTS.items():
        named = index.get(part)
        if named not in [[library, name] for name in names]:
            raise ValueError(f"{part} is {named}: it must be {library}, {' or '.join(names)}")
    named = index.get("scheduler")
    if not isinstance(named, list) or named[0] != "diffusers" or not _is_scheduler(named[1]):
        raise ValueError(f"scheduler is {named}: it must be a scheduler of diffusers")


def _check_family(index: dict) -> None:
    """Raise ValueError for a pipeline that is not of Stable Diffusion 1 or 2.

    Later families have other classes, a second text encoder or a transformer
    (https://huggingface.co/docs/diffusers/api/pipelines/overview).
    """
    name = index.get("_class_name", "StableDiffusionPipeline")
    parts = [part for part in OTHER_PARTS if index.get(part) not in (None, [None, None])]
    if parts or not re.match(FAMILY, name):
        held = f" with {parts[0]}" if parts else ""
        raise ValueError(f"it is a {name}{held}: {ONLY}")


def _check_class(part: str, named: list) -> None:
    """Raise ValueError unless `named` is [library, class] of diffusers or transformers."""
    libraries = {"diffusers": diffusers, "transformers": transformers}
    if len(named) == 2 and all(isinstance(name, str) for name in named):
        library = libraries.get(named[0])
        if isinstance(getattr(library, named[1], None), type):
            return
    raise ValueError(f"{part} is {named}: it must be a class of diffusers or transformers")


def _is_scheduler(name: str) -> bool:
    return issubclass(getattr(diffusers, name), SchedulerMixin)


def _check_parts(index: dict, source: str, folder: Path | None, where: dict) -> None:
    """Raise ValueError if a part's configuration asks for more than its weights."""
    for part in ("unet", "vae"):
        with one_error(part):
            kind = getattr(diffusers, index[part][1])
            inside = folder and folder / part
            _check_model(kind, source, inside, where | {"subfolder": part})
    with one_error("text_encoder"):
        inside = folder and folder / "text_encoder"
        kind = CLIPTextModel
        check_transformers(kind, source, inside, subfolder="text_encoder", **where)
    with one_error("scheduler"):
        kind = getattr(diffusers, index["scheduler"][1])
        check_numbers(kind.load_config(source, subfolder="scheduler", **where), MOST_IN_SCHEDULER)


def _check_model(kind: type, source: str, folder: Path | None, where: dict) -> None:
    """Check the configuration of a model of diffusers. Raises as `check_size`."""
    config = kind.load_config(source, **where)
    check_config(config)
    others = [name for name in OTHER_CONDITIONS if config.get(name)]
    if others:
        raise ValueError(f"its config has {others[0]}: {ONLY}")
    check_size(folder, partial(kind.from_config, config))


def _load_text_encoder(source: str, where: dict) -> CLIPTextModel:
    with one_error("text_encoder"), without_draws():
        encoder, report = CLIPTextModel.from_pretrained(
            source,
            subfolder="text_encoder",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **where,
        )
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    _refuse_missing("text encoder", [*report["missing_keys"], *mismatched])
    return encoder


def _check_whole(pipeline: StableDiffusionPipeline) -> None:
    """Raise ValueError if weights of a pipeline are missing, or if its parts do not fit."""
    _refuse_missing("unet", _without_data(pipeline.unet))
    _refuse_missing("vae", _without_data(pipeline.vae))
    channels = pipeline.unet.config.in_channels
    latents = pipeline.vae.config.latent_channels
    if channels != latents:
        raise ValueError(f"its unet takes {channels} channels, its vae gives {latents}")


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
    """Return the name that files of version 1 first had for the one of `sources` that was loaded.

    A small local folder is named by a hash of its files, a large one by their names and sizes, a
    model of the hub by the first hub id of `sources`. `diffusion.content` names them by content.
    """
    folder = Path(source)
    if not folder.exists():
        return next(other for other in sources if not Path(other).exists())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with_content = is_small(folder)
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue  # download caches and the desktop's own files
        _hash_file(path, name, with_content, digest)
    return digest.hexdigest()


def is_small(folder: Path) -> bool:
    """Return whether the files of a folder have less than HASHED_BYTES together."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(sizes) < HASHED_BYTES


def _hash_file(path: Path, name: str, with_content: bool, digest) -> None:
    """Add a file's name, size and content to a digest; a text as with the line ends of Unix."""
    text = path.suffix in TEXT_FILES
    content = path.read_bytes() if text or with_content else b""
    size = path.stat().st_size
    if text:
        content = content.replace(b"\r\n", b"\n")
        size = len(content)
    digest.update(f"{name}\0{size}\0".encode())
    if with_content:
        digest.update(content)
