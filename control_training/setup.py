"""From the flags of train_controlnet.py to a training, and from a training to its result."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from tqdm import tqdm

from common.files import complain, printable
from control_training.conditions import Conditions, Settings, load_finder
from control_training.held_out import split
from control_training.loop import Plan, Result, Training, train
from control_training.models import Base, load_base, load_start
from control_training.result import base_name, write_result
from control_training.samples import Crops, Options
from dataloaders import Samples, load_samples
from diffusion.control import takes_color
from models_ntc import lambda_range
from presets import Preset


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

    encode: in place of the VAE's encoder. Raises ValueError, UnavailableError, OSError.
    """
    samples = load_samples(args.data_root, args.dataset, preset.short_side)
    split(samples.names)
    settings = settings_of(args, preset)
    conditions = Conditions(args.work / "conditions", settings)
    accelerator = make_accelerator(args)
    check_sharing(args, accelerator.num_processes)
    device = str(accelerator.device)
    precision = args.precision or ("bf16" if accelerator.device.type == "cuda" else "no")
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
    low, high = args.lambda_range or whole
    if not whole[0] <= low <= high <= whole[1]:
        raise ValueError(
            f"--lambda_range {low:g} {high:g}: the sketch codec has {whole[0]:g} to {whole[1]:g}"
        )
    return Settings(
        data_root=str(Path(args.data_root).resolve()),
        short_side=preset.short_side,
        annotator=preset.annotator,
        sketch_codec=preset.sketch_codec,
        lambda_range=(low, high),
        colors=takes_color(preset.control),
        prompt=args.prompt,
        prompt_steps=args.prompt_steps or preset.prompt_steps,
        seed=args.seed,
    )


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    """Return accelerate's view of the processes, with its logs in the run's folder."""
    trackers = ["tensorboard", *(["wandb"] if args.wandb else [])]
    accelerator = Accelerator(
        cpu=args.device == "cpu",
        gradient_accumulation_steps=accumulation(args),
        log_with=trackers,
        project_config=ProjectConfiguration(str(args.work), logging_dir=str(args.work)),
    )
    accelerator.init_trackers("logs")
    return accelerator


def accumulation(args: argparse.Namespace) -> int:
    """Return the number of micro-batches of a process in a step."""
    from accelerate import PartialState

    part = max(1, args.batch_size // PartialState(cpu=args.device == "cpu").num_processes)
    return max(1, part // (args.micro_batch or part))


def check_sharing(args: argparse.Namespace, processes: int) -> None:
    """Raise ValueError unless processes and micro-batches share a step's samples evenly."""
    part, rest = divmod(args.batch_size, processes)
    if rest or part % (args.micro_batch or part or 1) or not part:
        raise ValueError(
            f"--batch_size {args.batch_size} cannot be shared evenly by {processes} processes "
            f"with --micro_batch {args.micro_batch or part}"
        )


def make_sketches(
    conditions: Conditions, samples: Samples, workers: int, accelerator: Accelerator
) -> None:
    """Make the sketches that are lacking; each process does its part."""
    todo = conditions.lacking(samples.names, ".npz")
    accelerator.wait_for_everyone()  # all have the same list
    own = todo[accelerator.process_index :: accelerator.num_processes]
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
    todo = conditions.lacking(samples.names, ".json")
    accelerator.wait_for_everyone()
    own = todo[accelerator.process_index :: accelerator.num_processes]
    if own:
        given = base.preset, conditions.settings, base.pipeline.tokenizer, base.max_tokens
        find = load_finder(*given, str(accelerator.device))
        bar = tqdm(total=len(own), desc="prompts", disable=not accelerator.is_main_process)
        for _ in conditions.write_prompts(samples, own, find):
            bar.update()
        bar.close()
    accelerator.wait_for_everyone()


def crops_of(args: argparse.Namespace, job: Job) -> Crops:
    """Return the training samples."""
    options = Options(job.base.preset.short_side, args.clean, args.drop_prompt, args.seed)
    base = job.base
    latents = base.channels, base.scale
    given = job.samples, job.training_part, job.conditions, base.row, latents
    return Crops(*given, base.preset.control, options)


def plan_of(args: argparse.Namespace, processes: int) -> Plan:
    """Return the settings of the training."""
    return Plan(
        steps=args.steps,
        batch_size=args.batch_size,
        micro_batch=args.micro_batch or args.batch_size // processes,
        learning_rate=args.learning_rate,
        warmup=args.warmup,
        ema_decay=args.ema_decay,
        gradient_checkpointing=args.gradient_checkpointing,
        adam_8bit=args.adam_8bit,
        max_seconds=args.max_seconds,
        save_every=args.save_every,
        check_every=args.check_every,
        readers=args.readers,
        seed=args.seed,
    )


def train_and_write(args: argparse.Namespace, job: Job) -> Result:
    """Train, and write the averaged ControlNet as a folder for `--preset`."""
    accelerator = job.accelerator
    controlnet = load_start(job.base.preset, job.base, args.start)
    plan = plan_of(args, accelerator.num_processes)
    training = Training(accelerator, job.base, controlnet, crops_of(args, job), plan, args.work)
    result = train(training, job.held_out)
    if accelerator.is_main_process:
        training.average.copy_to(training.plain.parameters())
        preset, base = job.base.preset, base_name(args.preset)
        write_result(training.plain, preset, base, args.output, facts(args, job, plan, result))
    accelerator.end_training()
    return result


def facts(args: argparse.Namespace, job: Job, plan: Plan, result: Result) -> dict[str, object]:
    """Return what the card tells of a training."""
    low, high = job.conditions.settings.lambda_range
    return {
        "photographs trained on": len(job.training_part),
        "photographs held out": len(job.held_out),
        "sketches": f"{job.conditions.settings.annotator}, lambda {low:g} to {high:g}",
        "samples with the uncoded sketch": f"{args.clean:g}",
        "samples without a prompt": f"{args.drop_prompt:g}",
        "steps": result.steps,
        "samples in a step": plan.batch_size,
        "learning rate": f"{plan.learning_rate:g}",
        "error before, decoded sketches": f"{result.before['decoded']:.5f}",
        "error after, decoded sketches": f"{result.after['decoded']:.5f}",
        "error before, clean sketches": f"{result.before['clean']:.5f}",
        "error after, clean sketches": f"{result.after['clean']:.5f}",
    }
