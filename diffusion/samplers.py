"""Samplers of a preset's names, with the settings of a text-to-image model's own.

sampler = made("UniPCMultistepScheduler", like=pipeline.scheduler, preset="sd21")
"""

from diffusion.families import Family
from diffusion.library import SchedulerMixin, diffusers
from presets import Preset, PresetError
from pretrained.libraries import lean


def check_samplers(preset: Preset, family: Family) -> None:
    """Raise PresetError if a preset's samplers are not for its family."""
    for name in (preset.sampler, preset.sketch_sampler):
        if family.samplers and name not in family.samplers:
            raise PresetError(
                f"preset {preset.name}: {family.name} is not sampled by {name}: "
                f'set "sampler" and "sketch_sampler" to {" or ".join(family.samplers)}'
            )


def made(name: str, like: SchedulerMixin, preset: str) -> SchedulerMixin:
    """Return a sampler with the settings of another one.

    Raises PresetError if diffusers, in this version, has none of that name or needs a package
    for it, or if it does not take the settings.
    """
    try:
        with lean():
            return getattr(diffusers, name).from_config(like.config)
    except Exception as error:  # they are a stranger's settings
        reason = " ".join(str(error).split())
        what = f"preset {preset}: sampler {name}"
        raise PresetError(f"{what}: {type(error).__name__}: {reason}") from error


def with_sampler(pipeline, name: str, preset: str):
    """Give a pipeline a sampler, and return it. Raises PresetError."""
    pipeline.scheduler = made(name, pipeline.scheduler, preset)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
