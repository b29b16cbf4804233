"""ControlNets, loaded from a source with every weight checked, for a pipeline that they fit.

    load_controlnet("owner/name", None, local_files_only=False, pipeline=pipeline)

A source is a local folder, a hub id, or one file of weights, which `diffusers` converts.
"""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import hf_hub_download

from diffusion.families import SD, Family, family_of_pipeline
from diffusion.library import diffusers
from diffusion.loading import NETWORK, check_model, refuse_missing, without_data
from presets import PresetError
from pretrained.hub import announce_weights, split_file
from pretrained.model_folders import check_config, local_folder, one_error


def load_controlnet(
    source: str,
    revision: str | None,
    local_files_only: bool,
    what: str = "ControlNet",
    pipeline=None,
):
    """Load a ControlNet on the CPU, in float32; as `load_pipeline`.

    source: also one file in the layout of its authors, with or without a config.json beside it.
    pipeline: that it is for; None: one of Stable Diffusion 1 or 2. Raises PresetError if it is for
    another one.
    """
    where = {"revision": revision, "local_files_only": local_files_only}
    family = SD if pipeline is None else family_of_pipeline(pipeline)
    network = getattr(pipeline, family.network).config if pipeline else {}
    with one_error("ControlNet", PresetError):
        if source.endswith(".safetensors"):
            kind, model = _load_single_file(family, network, source, what, where)
        else:
            kind, model = _load_controlnet(family, network, source, what, where)
        if pipeline and family.controls[kind].shared:
            model = type(model).from_transformer(model, getattr(pipeline, family.network))
        refuse_missing("network", without_data(model))
    return model


def _load_controlnet(family: Family, network: Mapping, source: str, what: str, where: dict):
    folder = local_folder(source)
    config = diffusers.ControlNetModel.load_config(source, **where)
    check_config(config)
    kind = _fitting(family, network, source, config)
    build = getattr(diffusers, kind)
    check_model(build, family, source, folder, where)
    if folder is None and not where["local_files_only"]:
        announce_weights(what, source, where["revision"], [NETWORK])
    return kind, build.from_pretrained(source, low_cpu_mem_usage=True, **where)


def _load_single_file(family: Family, network: Mapping, source: str, what: str, where: dict):
    file = Path(source)
    if not file.exists():
        repository, name = split_file(source)
        if not where["local_files_only"]:
            stem = name.removesuffix(".safetensors")
            announce_weights(what, repository, where["revision"], [stem])
        file = Path(hf_hub_download(repository, name, **where))
    kind = next(iter(family.controls))
    build = getattr(diffusers, kind)
    if not hasattr(build, "from_single_file"):
        raise ValueError(f"a {kind} is not read from one file: name a folder or a repository")
    options = {"local_files_only": where["local_files_only"]}
    if (file.parent / "config.json").exists():
        config = build.load_config(file.parent)
        check_config(config)
        kind = _fitting(family, network, source, config)
        options["config"] = str(file.parent)
    return kind, build.from_single_file(str(file), **options)


def _fitting(family: Family, network: Mapping, source: str, config: Mapping) -> str:
    """Return the class of a ControlNet. Raises PresetError if it is for another model."""
    try:
        kind = family.control_of(config)
        if network:
            family.check_pair(kind, config, network)
    except ValueError as error:
        raise PresetError(f"the ControlNet {source} does not fit: {error}") from error
    return kind
