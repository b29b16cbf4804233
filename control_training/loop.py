"""The training of a ControlNet with accelerate: steps, checkpoints, logs.

    result = train(Training(accelerator, base, crops, plan, folder), held_out)

The state is one file, state.pt: weights, optimizer, average, step. It is written by rank 0 under a
temporary name and renamed, so that there is always a whole one. Samples depend on their number
alone (control_training/samples.py): no random state has to be kept.
"""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.files import png, printable, write
from control_training.held_out import held_out_error, sheet
from control_training.models import Base, Batch
from control_training.samples import Crops, Numbers, together

STATE = "state.pt"
CLIP_NORM = 1.0  # of the gradient
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True)
class Plan:
    """The settings of a training."""

    steps: int
    batch_size: int  # samples in a step, over all processes
    micro_batch: int | None  # samples at once on one device; None: as many as a step has
    learning_rate: float
    ema_decay: float
    gradient_checkpointing: bool
    adam_8bit: bool
    max_seconds: float | None  # of training, earlier runs included
    save_every: int  # steps
    check_every: int  # steps
    readers: int  # worker processes that read samples


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    steps: int
    before: dict[str, float]  # held-out error at the first step
    after: dict[str, float]  # and of the average at the end


class Stop:
    """Whether SIGTERM or Ctrl-C asked to end after the current step."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> "Stop":
        self.before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True


class Training:
    """The ControlNet of `base`, its optimizer and its average; `step` steps are done.

    Raises ValueError if the folder holds the state of another training.
    """

    def __init__(
        self, accelerator: Accelerator, base: Base, crops: Crops, plan: Plan, folder: Path
    ):
        self.accelerator, self.base, self.crops, self.plan = accelerator, base, crops, plan
        self.folder = folder
        self.controlnet = base.controlnet.train()
        if plan.gradient_checkpointing:
            self.controlnet.enable_gradient_checkpointing()
            base.network.enable_gradient_checkpointing()
        self.optimizer = make_optimizer(self.controlnet.parameters(), plan)
        self.average = EMAModel(self.controlnet.parameters(), decay=plan.ema_decay)
        self.step, self.seconds = 0, 0.0
        self.before: dict[str, float] = {}
        self.resume()

    def identity(self) -> dict:
        """Return what a state must agree in to be resumed."""
        names = ("batch_size", "learning_rate", "ema_decay", "adam_8bit")
        plan = asdict(self.plan)
        return {name: plan[name] for name in names} | asdict(self.crops.options)

    def resume(self) -> None:
        """Go on from the state of the folder, if there is one."""
        file = self.folder / STATE
        if not file.exists():
            return
        state = torch.load(file, map_location="cpu", weights_only=True)
        there, here = state["identity"], self.identity()
        differing = [name for name in here if there.get(name) != here[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{printable(self.folder)} holds the state of another training ({name} is "
                f"{there.get(name)}, not {here[name]}): choose another --work"
            )
        self.controlnet.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.average.to(self.accelerator.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.before = state["before"]

    def save(self) -> None:
        """Write the state; rank 0 does it."""
        if self.accelerator.is_main_process:
            state = {
                "identity": self.identity(),
                "model": self.controlnet.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "before": self.before,
            }
            temporary = self.folder / f".{STATE}.{os.getpid()}.tmp"
            torch.save(state, temporary)
            temporary.replace(self.folder / STATE)
        self.accelerator.wait_for_everyone()

    def take_step(self, batch: Batch) -> torch.Tensor:
        """Train on a process's samples of a step. Return their mean loss.

        Gradients are averaged here, and not by a wrapper of the ControlNet, which the pipelines
        of diffusers would not know.
        """
        count = len(batch.prompts)
        part = self.plan.micro_batch or count
        total = torch.zeros((), device=self.accelerator.device)
        for start in range(0, count, part):
            loss = self.base.loss(batch.part(start, start + part)) * part / count
            loss.backward()
            total += loss.detach()
        weights = list(self.controlnet.parameters())
        for weight in weights:
            if weight.grad is not None:  # the last block of some transformers has layers unused
                weight.grad = self.accelerator.reduce(weight.grad, "mean")
        torch.nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(weights)
        self.step += 1
        return self.accelerator.reduce(total, "mean")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the ControlNet have its averaged weights meanwhile."""
        self.average.store(self.controlnet.parameters())
        self.average.copy_to(self.controlnet.parameters())
        self.controlnet.eval()
        try:
            yield
        finally:
            self.average.restore(self.controlnet.parameters())
            self.controlnet.train()

    def check(self, held_out: Sequence[int]) -> dict[str, float]:
        """Return the held-out error of the average, and log it with a sheet."""
        with self.averaged():
            error = held_out_error(self.base, self.crops, held_out)
            picture = sheet(self.base, self.crops, held_out)
        write(self.folder / "sheet.png", png(picture))
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"held out": picture[None]}, step=self.step, **layout)
        self.log("held-out", error)
        row = {"step": self.step, "seconds": round(self.seconds), **error}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        return error

    def log(self, group: str, values: dict[str, float]) -> None:
        """Add values to the logs of TensorBoard, and of Weights and Biases."""
        named = {f"{group}/{name}": value for name, value in values.items()}
        self.accelerator.log(named, step=self.step)


def make_optimizer(parameters, plan: Plan) -> torch.optim.Optimizer:
    """Return AdamW, its state in 8 bits if asked for."""
    kind = torch.optim.AdamW
    if plan.adam_8bit:
        from bitsandbytes import optim

        kind = optim.AdamW8bit
    return kind(parameters, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY)


def train(training: Training, held_out: Sequence[int]) -> Result | None:
    """Train until the plan's steps or seconds are done; write the state.

    held_out: photographs that are measured before, after and every `check_every` steps. Returns
    None if a signal came.
    """
    main = training.accelerator.is_main_process
    with Stop() as stop:
        if main and not training.before:
            training.before = training.check(held_out)
        run_steps(training, held_out, stop)
        training.save()
        if agreed(training, stop.asked):
            return None
        after = training.check(held_out) if main else {}
    return Result(training.step, training.before, after)


def run_steps(training: Training, held_out: Sequence[int], stop: Stop) -> None:
    """Take all steps that are left; save, measure and show on the way."""
    plan, main = training.plan, training.accelerator.is_main_process
    progress = {"total": plan.steps, "initial": training.step, "unit": "step", "desc": "train"}
    bar = tqdm(batches_of(training), **progress, disable=not main)
    last = time.monotonic()
    for batch in bar:
        loss = training.take_step(batch).item()
        training.seconds += time.monotonic() - last
        bar.set_postfix(loss=f"{loss:.4f}")
        training.log("train", {"loss": loss})
        over = plan.max_seconds is not None and training.seconds >= plan.max_seconds
        if agreed(training, stop.asked or over):
            return
        if training.step % plan.save_every == 0:
            training.save()
        if training.step % plan.check_every == 0 and main:
            training.check(held_out)
        last = time.monotonic()


def batches_of(training: Training) -> DataLoader:
    """Return this process's samples of each step that is left."""
    accelerator, plan = training.accelerator, training.plan
    share = accelerator.process_index, accelerator.num_processes
    numbers = Numbers(training.step, plan.steps, plan.batch_size, *share)
    given = {"batch_sampler": numbers, "collate_fn": together, "num_workers": plan.readers}
    return DataLoader(training.crops, **given)


def agreed(training: Training, vote: bool) -> bool:
    """Return whether any process says so: all do the same."""
    votes = torch.tensor(float(vote), device=training.accelerator.device)
    return training.accelerator.reduce(votes, "sum").item() > 0
