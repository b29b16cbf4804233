"""Pipelines, loaded from a source with every weight checked, and named by hash.

    pipeline = load_pipeline("owner/name", None, local_files_only=False)
    weights_name("/folder", ["/folder", "owner/name"])

A source is a local folder or a hub id. transformers fills weights that a file lacks with random
numbers and only reports it; diffusers leaves them on the "meta" device. Both are errors here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path

import torch

from diffusion.families import CLIP_TOKENIZER, CONDITIONS, FAMILIES, ONLY, Family, family_of
from diffusion.library import (
    SchedulerMixin,
    diffusers,
    diffusers_logging,
    transformers,
    transformers_logging,
)
from pretrained.hub import announce_fetch, is_here, listing, weight_file
from pretrained.libraries import whole, without_draws
from pretrained.model_folders import (
    EVERY_BYTE,
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
NOT_LOADED = (
    [None, None],
    ["stable_diffusion", "StableDiffusionSafetyChecker"],
    ["transformers", "CLIPFeatureExtractor"],  # an older name of an image processor
)
# What pipelines may have beside their parts, and do without.
SWITCHED_OFF = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "requires_safety_checker": False,
    "add_watermarker": False,
}


def load_pipeline(
    source: str,
    revision: str | None,
    local_files_only: bool,
    half: bool = False,
    what: str = "text-to-image model",
):
    """Load the pipeline of a text-to-image model on the CPU, without a safety checker.

    half: it is going to compute in 16 bits. Weights that are published in float16, too, are then
    read from those files, and others as their family's dtype; otherwise as float32. what: it is
    called when it is fetched.
    Its files, classes and sizes are checked before a library makes any of it. Raises ValueError if
    they are refused or if weights are missing, OSError or ImportError for what cannot be read.
    """
    where = {"revision": revision, "local_files_only": local_files_only}
    folder = local_folder(source)
    with one_error("model_index.json"):
        index = diffusers.StableDiffusionPipeline.load_config(source, **where)
        family = check_index(index)
    if family.network == "transformer":
        whole("diffusers.models.transformers")
    _check_parts(family, index, source, folder, where)
    read = dict(where)
    if folder is None:
        where["variant"] = _fetched(family, what, source, revision, local_files_only, half)
    dtype = _dtype(family, half)
    parts = {}
    for part in family.encoders:
        kind = _encoder_class(family, index, part)
        parts[part] = _load_text_encoder(kind, part, source, where | {"dtype": dtype})
    parts |= _load_tokenizers(family, index, source, parts, read)
    with one_error("scheduler"):
        kind = getattr(diffusers, index["scheduler"][1])
        parts["scheduler"] = kind.from_pretrained(source, subfolder="scheduler", **read)
    with one_error(f"{family.network} or vae"):
        kind = getattr(diffusers, family.pipeline)
        off = taken(kind, SWITCHED_OFF)
        pipeline = kind.from_pretrained(
            source, **parts, **off, torch_dtype=dtype, low_cpu_mem_usage=True, **where
        )
    _check_whole(pipeline, family)
    # One image at a time: less memory, and the same result in any batch.
    pipeline.vae.enable_slicing()
    if family.network == "unet":
        # The layout in which convolutions compute: a fifth less time.
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def _dtype(family: Family, half: bool) -> torch.dtype | None:
    """Return as what weights are read; None: as float32, from files of any kind."""
    return torch.bfloat16 if half and family.dtype == "bfloat16" else None


def taken(kind: type, options: Mapping) -> dict:
    """Return those of some options that a class takes by name."""
    names = signature(kind.__init__).parameters
    return {name: value for name, value in options.items() if name in names}


def _fetched(
    family: Family, what: str, source: str, revision: str | None, local_files_only: bool, half: bool
) -> str | None:
    """As `fetched_variant`, of any family."""
    if family.dtype == "float16":
        stems = [f"{part}/{NETWORK}" for part in (family.network, "vae")]
        stems += [f"{part}/model" for part in family.encoders]
        return fetched_variant(what, source, revision, local_files_only, half, stems)
    if not local_files_only:
        files = listing(source, revision)
        read = [file for file in files if file.split("/")[0] in family.parts]
        announce_fetch(what, source, revision, {file: files[file] for file in read})
    return None


def fetched_variant(
    what: str,
    source: str,
    revision: str | None,
    local_files_only: bool,
    half: bool,
    stems: Sequence[str] = STEMS,
) -> str | None:
    """Return which files of a pipeline of the hub are read, and say what has to be fetched.

    Those are "fp16", half as large, if `half` and if the repository has them for all parts and not
    all others are here already; otherwise None. Arguments as of `load_pipeline`.
    """
    plain = [f"{stem}.safetensors" for stem in stems]
    small = [f"{stem}.{HALF}.safetensors" for stem in stems]
    if all(is_here(source, revision, file) for file in plain):
        return None
    if half and all(is_here(source, revision, file) for file in small):
        return HALF
    if local_files_only:
        return None
    files = listing(source, revision)
    halved = half and set(small) <= set(files)
    chosen = small if halved else [weight_file(files, stem) for stem in stems]
    announce_fetch(what, source, revision, {file: files.get(file, 0) for file in chosen})
    return HALF if halved else None


def check_index(index: object) -> Family:
    """Return the family of a model_index.json.

    Raises ValueError unless it is of a known one and names its classes of diffusers and
    transformers alone. The loader would import a module of any other name, from the folder if it is
    there.
    """
    if not isinstance(index, dict) or not isinstance(index.get("_class_name", ""), str):
        raise ValueError('it must be an object whose "_class_name" is the name of one pipeline')
    family = family_of(index)
    _check_family(family, index)
    for part, named in index.items():
        if isinstance(named, list) and named not in NOT_LOADED:
            _check_class(part, named)
    for part, (library, names) in family.parts.items():
        named = index.get(part)
        if named not in [[library, name] for name in names]:
            raise ValueError(f"{part} is {named}: it must be {library}, {' or '.join(names)}")
    named = index.get("scheduler")
    if not isinstance(named, list) or named[0] != "diffusers" or not _is_scheduler(named[1]):
        raise ValueError(f"scheduler is {named}: it must be a scheduler of diffusers")
    return family


def _check_family(family: Family, index: dict) -> None:
    """Raise ValueError for a part that models of this family do not have, but others do."""
    parts = {part for other in FAMILIES for part in other.parts}
    for part in sorted(parts - set(family.parts)):
        if index.get(part) not in (None, [None, None]):
            raise ValueError(f"it is a {index.get('_class_name')} with {part}: {ONLY}")


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


def _check_parts(
    family: Family, index: dict, source: str, folder: Path | None, where: dict
) -> None:
    """Raise ValueError if a part's configuration asks for more than its weights."""
    for part in (family.network, "vae"):
        with one_error(part):
            kind = getattr(diffusers, index[part][1])
            inside = folder and folder / part
            check_model(kind, family, source, inside, where | {"subfolder": part})
    for part in family.encoders:
        with one_error(part):
            inside = folder and folder / part
            kind = _encoder_class(family, index, part)
            check_transformers(kind, source, inside, subfolder=part, **where)
    with one_error("scheduler"):
        kind = getattr(diffusers, index["scheduler"][1])
        check_numbers(kind.load_config(source, subfolder="scheduler", **where), MOST_IN_SCHEDULER)


def check_model(kind: type, family: Family, source: str, folder: Path | None, where: dict) -> None:
    """Check the configuration of a model of diffusers. Raises as `check_size`."""
    config = kind.load_config(source, **where)
    check_config(config)
    others = [name for name in CONDITIONS if config.get(name) and name not in family.conditions]
    if others:
        raise ValueError(f"its config has {others[0]}: {ONLY}")
    check_size(folder, partial(kind.from_config, config))


def _encoder_class(family: Family, index: dict, part: str) -> type:
    """Return the class of a text encoder; without its projection where nothing asks for that."""
    if family.prompts == "ids" and not family.pooled:
        return transformers.CLIPTextModel
    return getattr(transformers, index[part][1])


def _load_text_encoder(kind: type, part: str, source: str, where: dict):
    with one_error(part), without_draws():
        encoder, report = kind.from_pretrained(
            source,
            subfolder=part,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **where,
        )
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    refuse_missing(part.replace("_", " "), [*report["missing_keys"], *mismatched])
    return encoder


def _load_tokenizers(family: Family, index: dict, source: str, encoders: dict, where: dict) -> dict:
    """Return the tokenizers of the text encoders."""
    tokenizers = {}
    for part, encoder in encoders.items():
        name = part.replace("text_encoder", "tokenizer")
        if family.parts[name] == CLIP_TOKENIZER:
            size = encoder.config.vocab_size
            tokenizers[name] = clip_tokenizer(source, size, subfolder=name, **where)
            continue
        with one_error(name):
            kind = getattr(transformers, index[name][1])
            tokenizers[name] = kind.from_pretrained(source, subfolder=name, **where)
            tokenizers[name](EVERY_BYTE)
    words = [tokenizer.get_vocab() for tokenizer in tokenizers.values()]
    if family.prompts == "ids" and any(other != words[0] for other in words):
        raise ValueError("its tokenizers have different tokens")
    return tokenizers


def _check_whole(pipeline, family: Family) -> None:
    """Raise ValueError if weights of a pipeline are missing, or if its parts do not fit."""
    network = getattr(pipeline, family.network)
    refuse_missing(family.network, without_data(network))
    refuse_missing("vae", without_data(pipeline.vae))
    channels = family.size_of(network.config)
    config = pipeline.vae.config
    latents = config.get("latent_channels", config.get("z_dim"))
    if channels != latents:
        raise ValueError(f"its {family.network} takes {channels} channels, its vae gives {latents}")


def without_data(model: torch.nn.Module) -> list[str]:
    """Return the names of the weights that the file of a diffusers model does not hold."""
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def refuse_missing(part: str, missing: Sequence[str]) -> None:
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
