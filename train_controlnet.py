"""Train a ControlNet on the sketches that it will really get: compressed, and decoded again.

    python train_controlnet.py --preset sd21 --data_root PHOTOS --output runs/my_controlnet
    python eval_PICS.py --preset runs/my_controlnet

    accelerate launch --num_processes 4 train_controlnet.py ...     # four GPUs, or several hosts

Prompts, sketches and decoded sketches are made once and kept in WORK/conditions, the state of the
training in WORK/state.pt (`--work`; default: runs/controlnet_NAME). The same command goes on after
a stop, with the losses of a training that was never stopped. Ctrl-C, SIGTERM and --max_seconds end
it after the current step. WORK/logs is for TensorBoard, WORK/sheet.png shows held-out photographs.
The last line on stdout is JSON with their error before and after. More: docs/control_training.md.
"""

import argparse
import dataclasses
import json
import math
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from common.files import complain, printable, say
from common.weights import UnavailableError
from presets import Preset, PresetError, get_preset
from presets.row import PICTURES, PLAIN, PROMPTS_FROM
from pretrained.libraries import training_packages

SHARPENED = PICTURES[0]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data_flags(parser)
    add_training_flags(parser)
    args = parser.parse_args(argv)
    message = wrong(args)
    if message:
        parser.error(message)
    args.work = args.work or Path("runs") / f"controlnet_{args.output.resolve().name}"
    return args


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of models, photographs and their conditions."""
    add = parser.add_argument
    help_preset = "preset, or folder with preset.json, whose ControlNet is trained"
    add("--preset", default="sd21", metavar="NAME", help=help_preset)
    add("--data_root", required=True, metavar="DIR", help="folder of photographs, at any depth")
    add("--dataset", help="one of the paper's layouts under --data_root, such as CLIC2020")
    help_output = "folder of the result, for --preset"
    add("--output", type=Path, required=True, metavar="DIR", help=help_output)
    help_run = "folder of conditions, state and logs (default: runs/controlnet_NAME)"
    add("--work", type=Path, metavar="DIR", help=help_run)
    help_range = (
        "range of lambdas of the decoded sketches; the whole range of the codec if not given"
    )
    add("--lam_range", type=float, nargs=2, metavar=("LO", "HI"), help=help_range)
    prompts = (*PROMPTS_FROM, "none")
    help_prompt = "where the prompts come from; the preset's if not given"
    add("--prompt", choices=prompts, help=help_prompt)
    help_steps = "steps of the prompt search; the preset's if not given"
    add("--prompt_steps", type=int, metavar="N", help=help_steps)
    add("--clean", type=float, default=0.25, help="fraction of samples with the uncoded sketch")
    help_drop = "fraction of samples without a prompt"
    add("--drop_prompt", type=float, default=0.1, help=help_drop)
    help_workers = "number of worker processes that make conditions"
    add("--workers", type=int, default=2, help=help_workers)


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the training."""
    add = parser.add_argument
    add("--steps", type=int, default=10_000, help="number of steps")
    help_seconds = "maximum time of training in seconds, earlier runs included"
    add("--max_seconds", type=float, help=help_seconds)
    add("--batch_size", type=int, default=4, help="samples in a step, over all devices")
    help_micro = "samples at once on a device; as many as a step has if not given"
    add("--micro_batch", type=int, help=help_micro)
    add("--learning_rate", type=float, default=1e-5, help="learning rate")
    add("--ema_decay", type=float, default=0.999, help="decay of the averaged weights")
    help_memory = "compute activations twice, which takes less memory"
    add("--gradient_checkpointing", action="store_true", help=help_memory)
    add("--adam_8bit", action="store_true", help="keep the optimizer in 8 bits by bitsandbytes")
    help_precision = "number format of the networks; bf16 on a GPU and no on a CPU if not given"
    add("--precision", choices=("bf16", "no"), help=help_precision)
    add("--save_every", type=int, default=500, metavar="STEPS", help="steps between two states")
    help_every = "steps between two measurements of held-out photographs"
    add("--check_every", type=int, default=500, metavar="STEPS", help=help_every)
    add("--readers", type=int, default=0, help="number of worker processes that read samples")
    add("--wandb", action="store_true", help="log to Weights and Biases too")
    add("--seed", type=int, default=0, help="random seed")
    help_device = "type of device; GPUs, if there are any, if not given"
    add("--device", choices=("cpu", "cuda"), help=help_device)


def wrong(args: argparse.Namespace) -> str:
    """Return what is wrong with the arguments, or ""."""
    for name in ("steps", "batch_size", "save_every", "check_every", "micro_batch", "prompt_steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            return f"--{name} {value}: give 1 or more"
    for name in ("readers", "workers", "seed"):
        if getattr(args, name) < 0:
            return f"--{name} {getattr(args, name)}: must not be negative"
    for name in ("clean", "drop_prompt", "ema_decay"):
        if not 0 <= getattr(args, name) <= 1:
            return f"--{name} {getattr(args, name)}: give 0 to 1"
    for name, package in (("adam_8bit", "bitsandbytes"), ("wandb", "wandb")):
        if getattr(args, name) and find_spec(package) is None:
            return f"--{name} needs {package}, which is not installed: pip install {package}"
    for name in ("learning_rate", "max_seconds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            return f"--{name} {value}: give a positive number"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Make the conditions, train, write the result.

    Return 0 when done, 1 when it failed, 2 for wrong usage, 130 when interrupted.
    """
    args = parse_args(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # workers end with it
    try:
        with training_packages("train_controlnet.py"):
            import tensorboard  # noqa: F401 - accelerate writes its logs
        with ExitStack() as held:
            return run(args, held)
    except (UnavailableError, OSError) as error:
        complain(f"train_controlnet.py: {error}")
        return 1
    except (ValueError, PresetError, ImportError) as error:
        complain(f"train_controlnet.py: {error}")
        return 2
    except KeyboardInterrupt:
        complain("stopped: start it again to go on")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def run(args: argparse.Namespace, held: ExitStack) -> int:
    """Do all of it; the folder of the run is locked until `held` is closed."""
    from control_training import setup
    from evaluation.lock import locked
    from evaluation.processes import is_rank_0

    preset = get_preset(args.preset)
    if preset.control == SHARPENED:  # which was for sketches that no ControlNet was trained on
        preset = dataclasses.replace(preset, control=PLAIN)
    if is_rank_0():
        held.enter_context(locked(args.work))
    job = setup.prepare(args, preset, linear_encoder(preset))
    result = setup.train_and_write(args, job)
    if result is None:
        raise KeyboardInterrupt
    if is_rank_0():
        say(json.dumps({"output": printable(args.output), **dataclasses.asdict(result)}))
    return 0


def linear_encoder(preset: Preset) -> Callable | None:
    """Return the encoder of a bundle whose VAE has a decoder alone (tiny/latents.py), or None."""
    file = Path(preset.generator[0]).parent / "latents.safetensors"
    if not file.is_file():
        return None
    from tiny.latents import Latents

    return Latents.load(file).encode


if __name__ == "__main__":
    sys.exit(main())
