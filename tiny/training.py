"""What the training scripts share: a loop that stops by the clock, resumes exactly and logs as it goes."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


def parser(description: str, run: str, seconds: float) -> argparse.ArgumentParser:
    """Return the flags that every training script has, with the defaults of its run."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--run", type=Path, default=Path(run), help="folder of the log and of the state to resume from")
    flags.add_argument("--seconds", type=float, default=seconds, help="of training, earlier runs included")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    return flags


class Run:
    """One training run in a folder: `state.pt` to resume from, `log.jsonl` to read."""

    def __init__(self, folder: Path, seconds: float, seed: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seconds = folder, seconds
        self.step, self.spent, self.saved = 0, 0.0, 0.0
        torch.manual_seed(seed)
        torch.set_flush_denormal(True)

    def resume(self, **parts) -> None:
        """Load every part (anything with `load_state_dict`) from the last saved state, if there is one."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.step, self.spent = state["step"], state["spent"]
        self.saved = self.spent
        torch.set_rng_state(state["rng"])

    def save(self, **parts) -> None:
        """Write every part's state, atomically."""
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": self.step, "spent": self.spent, "rng": torch.get_rng_state()}
        torch.save(state, self.folder / "state.pt.tmp")
        (self.folder / "state.pt.tmp").replace(self.folder / "state.pt")

    def loop(self, train_step: Callable[[float], dict], parts: dict, each: dict[int, Callable[[], dict]]) -> None:
        """Call `train_step(progress 0..1)` until the time is spent; `each[n]` runs every n steps and is logged.

        The state is saved every two minutes and at the end.
        """
        self.resume(**parts)
        means, started = {}, time.monotonic() - self.spent
        while self.spent < self.seconds:
            for name, value in train_step(self.spent / self.seconds).items():
                means[name] = value if name not in means else 0.98 * means[name] + 0.02 * value
            self.step += 1
            self.spent = time.monotonic() - started
            for interval, report in each.items():
                if self.step % interval == 0:
                    self.log(means | report())
            if self.spent - self.saved > 120:
                self.save(**parts)
                self.saved = self.spent
        self.log(means)
        self.save(**parts)

    def log(self, row: dict) -> None:
        """Append a row to log.jsonl and print it."""
        row = {"step": self.step, "seconds": round(self.spent), **row}
        line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(line + "\n")
        print(line, flush=True)


def cosine(progress: float, warmup: float = 0.02, floor: float = 0.02) -> float:
    """Return the step-size factor at `progress` 0..1: linear warm-up, then half a cosine down to `floor`."""
    if progress < warmup:
        return progress / warmup + 1e-3
    turn = (progress - warmup) / (1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + torch.cos(torch.tensor(turn * torch.pi)).item())


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the step size of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take one step of the optimizer, the norm of its gradients clipped to 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], 1.0)
    optimizer.step()


class Average:
    """Exponential moving average of a module's weights, the one that is exported."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.module, self.decay = module, decay
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the module; the first updates move further."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for key, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.shadow[key].lerp_(value, 1 - decay)
            else:
                self.shadow[key].copy_(value)

    def state_dict(self) -> dict:
        """Return the averaged weights and the number of updates."""
        return {"shadow": self.shadow, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Take the averaged weights back."""
        self.updates = state["updates"]
        for key, value in state["shadow"].items():
            self.shadow[key].copy_(value)
