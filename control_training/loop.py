"""The training of a ControlNet with accelerate: steps, checkpoints, logs.

    result = train(base, controlnet, crops, held_out, Plan(steps=1000), folder)

The state is one file, state.pt: weights, optimizer, average, step. It is written by rank 0 under a
temporary name and renamed, so that there is always a whole one. Samples depend on their number
alone (control_training/samples.py): no random state has to be kept.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.files import png, printable, write
from control_training.held_out import held_out_error, sheet
from control_training.models import Base, Noising, loss_of
from control_training.samples import Crops, Numbers

STATE = "state.pt"
CLIP_NORM = 1.0  # of the gradient
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True)
class Plan:
    """The settings of a training."""

    steps: int
    batch_size: int = 4  # samples in a step, over all processes
    micro_batch: int = 4  # samples at once on one device
    learning_rate: float = 1e-5
    warmup: int = 0  # steps
    ema_decay: float = 0.999
    gradient_checkpointing: bool = False
    adam_8bit: bool = False
    max_seconds: float | None = None  # of training, earlier runs included
    save_every: int = 500  # steps
    check_every: int = 500  # steps
    readers: int = 0  # worker processes that read samples
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    steps: int
    before: dict[str, float]  # held-out error at the first step
    after: dict[str, float]
    interrupted: bool


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
    """The ControlNet, its optimizer and its average; `step` steps are done.

    Raises ValueError if the folder holds the state of another training.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        base: Base,
        controlnet,
        crops: Crops,
        plan: Plan,
        folder: Path,
    ):
        self.accelerator, self.base, self.crops, self.plan = accelerator, base, crops, plan
        self.folder = folder
        self.noising = Noising(base.pipeline.scheduler)
        if plan.gradient_checkpointing:
            controlnet.enable_gradient_checkpointing()
            base.pipeline.unet.enable_gradient_checkpointing()
        controlnet.requires_grad_(True).train().to(accelerator.device)
        self.raw_optimizer = make_optimizer(controlnet.parameters(), plan)
        self.rate = get_scheduler(
            "constant_with_warmup", self.raw_optimizer, num_warmup_steps=plan.warmup
        )
        self.average = EMAModel(controlnet.parameters(), decay=plan.ema_decay)
        self.controlnet, self.optimizer = accelerator.prepare(controlnet, self.raw_optimizer)
        self.step, self.seconds = 0, 0.0
        self.before: dict[str, float] = {}
        self.resume()

    @property
    def plain(self):
        """The ControlNet itself, without what shares it between processes."""
        return self.accelerator.unwrap_model(self.controlnet)

    def identity(self) -> dict:
        """Return what a state must agree in to be resumed."""
        plan = asdict(self.plan)
        names = ("batch_size", "learning_rate", "warmup", "ema_decay", "adam_8bit", "seed")
        settings = {name: plan[name] for name in names}
        return settings | {"side": self.crops.options.side, "preset": self.base.preset.name}

    def resume(self) -> None:
        """Go on from the state of the folder, if there is one."""
        file = self.folder / STATE
        if not file.exists():
            return
        state = torch.load(file, map_location="cpu", weights_only=True)
        if state["identity"] != self.identity():
            raise ValueError(
                f"{printable(self.folder)} holds the state of another training "
                f"({state['identity']}): choose another --work"
            )
        self.plain.load_state_dict(state["model"])
        self.raw_optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.average.load_state_dict(state["average"])
        self.average.to(self.accelerator.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.before = state["before"]

    def save(self) -> None:
        """Write the state; rank 0 does it."""
        if self.accelerator.is_main_process:
            state = {
                "identity": self.identity(),
                "model": self.plain.state_dict(),
                "optimizer": self.raw_optimizer.state_dict(),
                "rate": self.rate.state_dict(),
                "average": self.average.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "before": self.before,
            }
            temporary = self.folder / f".{STATE}.{os.getpid()}.tmp"
            torch.save(state, temporary)
            temporary.replace(self.folder / STATE)
        self.accelerator.wait_for_everyone()

    def micro_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add the gradients of a micro-batch; with its last one, take a step. Return the loss."""
        with self.accelerator.accumulate(self.controlnet):
            loss = loss_of(self.base, self.controlnet, self.noising, batch)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.controlnet.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            self.rate.step()
            self.average.step(self.plain.parameters())
            self.step += 1
        return loss.detach()

    def check(self, indices: Sequence[int]) -> dict[str, float]:
        """Return the held-out error of the average."""
        self.average.store(self.plain.parameters())
        self.average.copy_to(self.plain.parameters())
        error = held_out_error(self.base, self.plain, self.noising, self.crops, indices)
        self.average.restore(self.plain.parameters())
        return error

    def show(self, indices: Sequence[int]) -> None:
        """Write the sheet of held-out photographs to sheet.png and the logs."""
        self.average.store(self.plain.parameters())
        self.average.copy_to(self.plain.parameters())
        picture = sheet(self.base, self.plain, self.crops, indices)
        self.average.restore(self.plain.parameters())
        write(self.folder / "sheet.png", png(picture))
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"held out": picture[None]}, step=self.step, **layout)


def make_optimizer(parameters, plan: Plan) -> torch.optim.Optimizer:
    """Return AdamW, with states of 8 bits if asked for. Raises ImportError without bitsandbytes."""
    kind = torch.optim.AdamW
    if plan.adam_8bit:
        from bitsandbytes import optim

        kind = optim.AdamW8bit
    return kind(parameters, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY)


def train(training: Training, held_out: Sequence[int]) -> Result:
    """Train until the plan's steps or seconds are done, or a signal comes; write the state.

    held_out: photographs that are measured before, after and every `check_every` steps.
    """
    accelerator, plan = training.accelerator, training.plan
    main = accelerator.is_main_process
    with Stop() as stop:
        if main and not training.before:
            training.before = training.check(held_out)
            report(training, "held-out", training.before)
        with tqdm(
            total=plan.steps, initial=training.step, desc="train", unit="step", disable=not main
        ) as bar:
            if training.step < plan.steps:
                run_steps(training, held_out, stop, bar)
        training.save()
        after = training.check(held_out) if main else {}
        if main:
            report(training, "held-out", after)
    return Result(training.step, training.before, after, stop.asked)


def run_steps(training: Training, held_out: Sequence[int], stop: Stop, bar: tqdm) -> None:
    """Take all steps that are left; save, measure and show on the way."""
    accelerator, plan = training.accelerator, training.plan
    world, rank = accelerator.num_processes, accelerator.process_index
    numbers = Numbers(training.step, plan.steps, plan.batch_size, plan.micro_batch, rank, world)
    loader = DataLoader(training.crops, batch_sampler=numbers, num_workers=plan.readers)
    losses = []
    last = time.monotonic()
    for batch in loader:
        losses.append(training.micro_step(batch))
        if not accelerator.sync_gradients:
            continue
        training.seconds += time.monotonic() - last
        last = time.monotonic()
        bar.update()
        loss = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
        losses.clear()
        bar.set_postfix(loss=f"{loss:.4f}")
        report(training, "train", {"loss": loss, "rate": training.rate.get_last_lr()[0]})
        if ends(training, stop):
            return
        if training.step % plan.save_every == 0:
            training.save()
        if training.step % plan.check_every == 0 and accelerator.is_main_process:
            report(training, "held-out", training.check(held_out))
            training.show(held_out)


def ends(training: Training, stop: Stop) -> bool:
    """Return whether any process was asked to stop, or has no time left: all agree."""
    limit = training.plan.max_seconds
    over = stop.asked or (limit is not None and training.seconds >= limit)
    if training.accelerator.num_processes == 1:
        return over
    votes = torch.tensor(float(over), device=training.accelerator.device)
    return training.accelerator.reduce(votes, "sum").item() > 0


def report(training: Training, group: str, values: dict[str, float]) -> None:
    """Add values to the logs, and those of held-out photographs to log.jsonl."""
    named = {f"{group}/{name}": value for name, value in values.items()}
    training.accelerator.log(named, step=training.step)
    if group == "held-out" and training.accelerator.is_main_process:
        row = {"step": training.step, "seconds": round(training.seconds), **values}
        with (training.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
