"""What the training scripts share: a loop that stops by the clock, resumes exactly and logs.

run = Run(folder, seconds=600)
run.loop(train_step, {"model": model, "optimizer": optimizer}, {100: measure})
"""

import argparse
import io
import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from common.device import choose_device
from common.files import write

SAVE_SECONDS = 120  # between two writes of the state
SMOOTHING = 0.02  # weight of the newest value in the logged means


def parser(description: str, run: str, seconds: float) -> argparse.ArgumentParser:
    """Return the flags that every training script has, with these defaults for --run, --seconds."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--run", type=Path, default=Path(run), help="folder of the log and the state to resume")
    help_seconds = "time of training in seconds, earlier runs included"
    add("--seconds", type=float, default=seconds, help=help_seconds)
    add("--seed", type=int, default=0, help="random seed")
    help_device = "cpu, cuda or cuda:N (default: a GPU if there is one)"
    add("--device", type=_device, default="", help=help_device)
    return flags


def _device(name: str) -> torch.device:
    """Return the device of a flag; "": the default. Raises ValueError if it is not available."""
    return torch.device(choose_device(name or None))


class Run:
    """One training run in a folder: `state.pt` to resume from, `log.jsonl` to read.

    seconds: time of training, earlier runs included.
    seed: of torch's random generator; the scripts use it for their own generators too.
    device: of the trained weights.
    step, spent: number of steps and seconds so far.
    """

    def __init__(
        self, folder: Path, seconds: float, seed: int = 0, device: torch.device | str = "cpu"
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.seconds = seconds
        self.seed = seed
        self.device = device
        self.step = 0
        self.spent = 0.0
        self.saved = 0.0
        torch.manual_seed(seed)
        torch.set_flush_denormal(True)

    def resume(self, **parts) -> None:
        """Load all parts (anything with `load_state_dict`) from the last state, if there is one."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
            if isinstance(part, EMAModel):  # the only one that takes over the device of the file
                part.to(self.device)
        self.step = state["step"]
        self.spent = state["spent"]
        self.saved = self.spent
        torch.set_rng_state(state["rng"])

    def save(self, **parts) -> None:
        """Write the state of all parts."""
        state = {name: part.state_dict() for name, part in parts.items()}
        state["step"] = self.step
        state["spent"] = self.spent
        state["rng"] = torch.get_rng_state()
        content = io.BytesIO()
        torch.save(state, content)
        write(self.folder / "state.pt", content.getvalue())

    def loop(
        self, train_step: Callable[[float], dict], parts: dict, each: dict[int, Callable[[], dict]]
    ) -> None:
        """Train until the time is spent. The state is saved every two minutes and at the end.

        train_step: called with the progress, 0..1. Returns values to log, of which moving means are
            kept.
        parts: {name: what is saved and resumed}.
        each: {n: what is called every n steps}. It returns values to log.
        """
        self.resume(**parts)
        means = {}
        started = time.monotonic() - self.spent
        while self.spent < self.seconds:
            for name, value in train_step(self.spent / self.seconds).items():
                before = means.get(name, value)
                means[name] = (1 - SMOOTHING) * before + SMOOTHING * value
            self.step += 1
            self.spent = time.monotonic() - started
            for interval, report in each.items():
                if self.step % interval == 0:
                    self.log(means | report())
            if self.spent - self.saved > SAVE_SECONDS:
                self.save(**parts)
                self.saved = self.spent
        self.log(means)
        self.save(**parts)

    def log(self, values: dict) -> None:
        """Append values to log.jsonl, with step and seconds, and print them."""
        row = {"step": self.step, "seconds": round(self.spent)}
        for name, value in values.items():
            row[name] = round(value, 5) if isinstance(value, float) else value
        line = json.dumps(row)
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(line + "\n")
        print(line, flush=True)


# ---- optimization


def cosine_schedule(progress: float, warmup: float = 0.02, floor: float = 0.02) -> float:
    """Return the factor of the learning rate: a linear warm-up, then half a cosine down to `floor`.

    progress, warmup: fractions of the training, 0..1.
    """
    if progress < warmup:
        return progress / warmup + 1e-3
    turn = (progress - warmup) / (1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(turn * math.pi))


def set_learning_rate(
    optimizer: torch.optim.Optimizer, peak: float, progress: float, warmup: float = 0.02
) -> None:
    """Set the learning rate of all parameter groups: `peak` times `cosine_schedule`."""
    for group in optimizer.param_groups:
        group["lr"] = peak * cosine_schedule(progress, warmup)


def optimizer_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take one step of the optimizer, with the norm of the gradient clipped to 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    weights = []
    for group in optimizer.param_groups:
        weights += group["params"]
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def averaged(module: nn.Module, average: EMAModel) -> nn.Module:
    """Return a copy of a module on the CPU, in eval mode, with the averaged weights.

    average: of `module.parameters()`. Buffers are those of the module.
    """
    smooth = deepcopy(module).to("cpu", memory_format=torch.contiguous_format).eval()
    average.copy_to(smooth.parameters())
    return smooth
