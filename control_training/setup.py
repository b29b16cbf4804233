"""From the flags of train_controlnet.py to a training, and from a training to its result."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from statistics import fmean

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from tqdm import tqdm

from common.device import choose_device
from common.files import complain, printable
from control_training.conditions import Conditions, Settings, load_finder
from control_training.held_out import split
from control_training.loop import Plan, Result, Training, train
from control_training.models import Base, load_base
from control_training.result import base_name, write_result
from control_training.samples import Crops, Options
from dataloaders import Samples, load_samples
from diffusion.control import takes_color
from models_ntc import lambda_range
from presets import Preset

LONGEST_WAIT = timedelta(days=30)  # of a process for the others to make conditions


@dataclass(eq=False)
class Job:
    """What a training is made of."""

    accelerator: Accelerator
    base: Base
    samples: Samples
    conditions: Conditions
    training_part: list[int]
    held_out: list[int]


def prepare(args: argparse.Namespace, preset: Preset, encode: Callable | None) -> Job:
    """Load the base and make the conditions that are lacking.

    encode: in place of the VAE's encoder. Raises ValueError, OSError, UnavailableError or
    PresetError.
    """
    samples = load_samples(args.data_root, args.dataset, preset.short_side)
    split(samples.names)
    conditions = Conditions(args.work / "conditions", settings_of(args, preset))
    accelerator = make_accelerator(args)
    device = accelerator.device
    precision = args.precision or ("bf16" if device.type == "cuda" else "no")
    base = load_base(preset, device, precision == "bf16", encode)
    make_sketches(conditions, samples, args.workers, accelerator)
    make_prompts(conditions, samples, base, accelerator)
    names = samples.names
    lacking = {*conditions.lacking(names, ".npz"), *conditions.lacking(names, ".json")}
    usable = [i for i in range(len(names)) if i not in lacking]
    training_part, held_out = split([names[i] for i in usable])
    parts = [usable[i] for i in training_part], [usable[i] for i in held_out]
    return Job(accelerator, base, samples, conditions, *parts)


def settings_of(args: argparse.Namespace, preset: Preset) -> Settings:
    """Return what decides the conditions. Raises ValueError for a range the codec does not have."""
    whole = lambda_range(preset.sketch_codec)
    low, high = args.lam_range or whole
    if not whole[0] <= low <= high <= whole[1]:
        raise ValueError(
            f"--lam_range {low:g} {high:g}: the sketch codec has {whole[0]:g} to {whole[1]:g}"
        )
    return Settings(
        data_root=str(Path(args.data_root).resolve()),
        short_side=preset.short_side,
        annotator=preset.annotator,
        sketch_codec=preset.sketch_codec,
        lambda_range=(low, high),
        colors=takes_color(preset.control),
        prompt=args.prompt or preset.prompt_from,
        prompt_steps=args.prompt_steps or preset.prompt_steps,
        seed=args.seed,
    )


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """Return accelerate's view of the processes, with its logs in the run's folder.

    Raises ValueError for a device that is not there, and unless the processes can share a step's
    samples evenly.
    """
    if args.device:
        choose_device(args.device)
    trackers = ["tensorboard", *(["wandb"] if args.wandb else [])]
    configuration = ProjectConfiguration(str(args.work), logging_dir=str(args.work / "logs"))
    accelerator = Accelerator(
        cpu=args.device == "cpu",
        log_with=trackers,
        project_config=configuration,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    part, rest = divmod(args.batch_size, accelerator.num_processes)
    if rest or not part or part % (args.micro_batch or part):
        raise ValueError(
            f"--batch_size {args.batch_size} cannot be shared evenly by "
            f"{accelerator.num_processes} processes with --micro_batch {args.micro_batch or part}"
        )
    accelerator.init_trackers("text-sketch", init_kwargs={"wandb": {"dir": str(args.work)}})
    return accelerator


def own_part(lacking: list[int], accelerator: Accelerator) -> list[int]:
    """Return this process's part of what is lacking, once all processes have the same list."""
    accelerator.wait_for_everyone()
    return lacking[accelerator.process_index :: accelerator.num_processes]


def make_sketches(
    conditions: Conditions, samples: Samples, workers: int, accelerator: Accelerator
) -> None:
    """Make the sketches that are lacking; each process does its part."""
    own = own_part(conditions.lacking(samples.names, ".npz"), accelerator)
    main = accelerator.is_main_process
    with tqdm(total=len(own), desc="sketches", unit="image", disable=not main or not own) as bar:
        for name, reason in conditions.write_sketches(samples, own, workers):
            bar.update()
            if reason:
                complain(f"left out: {printable(name)}: {reason}")
    accelerator.wait_for_everyone()


def make_prompts(
    conditions: Conditions, samples: Samples, base: Base, accelerator: Accelerator
) -> None:
    """Find the prompts that are lacking; each process does its part."""
    own = own_part(conditions.lacking(samples.names, ".json"), accelerator)
    if own:
        find = load_finder(base.generator.preset, conditions.settings, base.generator)
        bar = tqdm(total=len(own), desc="prompts", disable=not accelerator.is_main_process)
        for _ in conditions.write_prompts(samples, own, find):
            bar.update()
        bar.close()
    accelerator.wait_for_everyone()


def crops_of(args: argparse.Namespace, job: Job) -> Crops:
    """Return the training samples."""
    generator = job.base.generator
    side = generator.preset.short_side
    options = Options(
        side=side,
        latents=generator.latents_size(side, side),
        prompts=generator.prompts,
        control=generator.preset.control,
        signed=generator.family.signed,
        clean=args.clean,
        drop_prompt=args.drop_prompt,
        seed=args.seed,
    )
    return Crops(job.samples, job.training_part, job.conditions, options)


def train_and_write(args: argparse.Namespace, job: Job) -> Result | None:
    """Train, and write the averaged ControlNet as a folder for `--preset`; None if stopped."""
    settings = {field.name: getattr(args, field.name) for field in fields(Plan)}
    training = Training(job.accelerator, job.base, crops_of(args, job), Plan(**settings), args.work)
    result = train(training, job.held_out)
    if result and job.accelerator.is_main_process:
        preset, base = job.base.generator.preset, base_name(args.preset)
        with training.averaged():
            told = facts(args, job, result)
            write_result(training.controlnet, preset, base, args.output, told)
    job.accelerator.end_training()
    return result


def facts(args: argparse.Namespace, job: Job, result: Result) -> dict[str, object]:
    """Return what the card tells of a training."""
    low, high = job.conditions.settings.lambda_range
    names = [job.samples.names[index] for index in job.held_out]
    return {
        "photographs trained on": len(job.training_part),
        "photographs held out": len(job.held_out),
        "sketches": f"{job.conditions.settings.annotator}, lambda {low:g} to {high:g}",
        "bytes of a held-out sketch": f"{fmean(job.conditions.sizes(names)):.0f}",
        "samples with the uncoded sketch": f"{args.clean:g}",
        "samples without a prompt": f"{args.drop_prompt:g}",
        "steps": result.steps,
        "samples in a step": args.batch_size,
        "learning rate": f"{args.learning_rate:g}",
        "error before, decoded sketches": f"{result.before['decoded']:.5f}",
        "error after, decoded sketches": f"{result.after['decoded']:.5f}",
        "error before, clean sketches": f"{result.before['clean']:.5f}",
        "error after, clean sketches": f"{result.after['clean']:.5f}",
    }
