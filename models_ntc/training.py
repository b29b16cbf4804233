"""Training of the sketch codecs with PyTorch Lightning: network, optimizers, data and losses.

    python train_compressai.py -d runs/sketches -e 20 --lambda 1.0 --dist_metric ms-ssim

What is random in a step - the sketches, their crops and flips, the lambdas, the noise in place of
rounding - is a function of the seed and of the number of steps done. Therefore a checkpoint needs
no state of a random generator, and a training that was stopped at any step has the same losses as
one that was not.
"""

import functools
import math
from argparse import Namespace
from pathlib import Path

import torch
from compressai.entropy_models import EntropyModel
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models_ntc.checkpoint import Checkpoint
from models_ntc.loss import rate_distortion
from models_ntc.networks import new_network
from models_ntc.training_data import RestOfEpoch, Sketches

# Ratio of the learning rate of the hyper-latents' density to that of the rest: after short
# trainings, the density was too wide.
DENSITY_PACE = 10.0
# Steps over which the learning rate rises, so that Adam's first steps do not undo a warm start.
WARM_STEPS = 200


class CodecTraining(LightningModule):
    """Network, optimizers, data and losses.

    args: those of train_compressai.py.
    steps: number of updates done, over all runs of a checkpoint.
    seconds: spent in training, over all runs.
    """

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.args = args
        self.lambdas = args.lambda_range or [args.lmbda, args.lmbda]
        self.steps = 0
        self.seconds = 0.0
        self.optimizer_states: list[dict] = []  # of a checkpoint
        torch.manual_seed(args.seed)
        self.layout = torch.contiguous_format
        sizes = None
        if args.model == "sketch":
            self.layout = torch.channels_last
            sizes = {"lambda_range": tuple(self.lambdas)}
        self.net = new_network(args.model, sizes).to(memory_format=self.layout)
        for model in self.net.modules():
            if isinstance(model, EntropyModel):
                keep_float32(model)
        self._load_data()

    def _load_data(self) -> None:
        args = self.args
        root = Path(args.dataset)
        self.train_set = Sketches(root / "train", args.patch_size, args.seed)
        self.test_set = Sketches(root / "test", args.patch_size)
        count = len(self.train_set)
        self.batch_size = min(args.batch_size, count // args.devices * args.devices)
        if not self.batch_size:
            raise ValueError(f"{count} sketches cannot be shared by {args.devices} devices")
        self.steps_per_epoch = count // self.batch_size
        self.steps_in_all = args.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> float:
        """Number of epochs done, over all runs."""
        return self.steps / self.steps_per_epoch

    def rates(self) -> list[float]:
        """Return the lambdas of validation: the only one, or lowest, middle and highest."""
        low, high = self.lambdas
        if low == high:
            return [low]
        return [low, math.sqrt(low * high), high]

    def loader(self, data: Sketches, **order: object) -> DataLoader:
        """Return a loader whose worker processes stay from epoch to epoch."""
        workers = self.args.num_workers
        return DataLoader(data, num_workers=workers, persistent_workers=workers > 0, **order)

    def train_dataloader(self) -> DataLoader:
        """Return a loader of the rest of an epoch, see RestOfEpoch."""
        return self.loader(self.train_set, batch_sampler=RestOfEpoch(self))

    def val_dataloader(self) -> DataLoader:
        """Return a loader of all test sketches, the same on every device."""
        keys = [(0, index) for index in range(len(self.test_set))]
        return self.loader(self.test_set, sampler=keys, batch_size=self.args.test_batch_size)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for the network, its density at its own pace, and Adam for the quantiles."""
        rest, density, quantiles = optimized_parts(self.net)
        groups = [{"params": rest, "pace": 1.0}, {"params": density, "pace": DENSITY_PACE}]
        optimizers = [
            torch.optim.Adam(groups, lr=self.args.learning_rate),
            torch.optim.Adam(quantiles, lr=self.args.aux_learning_rate),
        ]
        for optimizer, state in zip(optimizers, self.optimizer_states, strict=False):
            own = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": own})
        return optimizers

    def learning_rate(self) -> float:
        """Return the rate of the next step: a short rise, then a cosine down to a hundredth.

        The cosine ends with --epochs or --max_seconds, whichever is first.
        """
        done = self.steps / self.steps_in_all
        if self.args.max_seconds is not None:
            done = max(done, self.seconds / self.args.max_seconds)
        warm = min((self.steps + 1) / WARM_STEPS, 1.0)
        return warm * self.args.learning_rate * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))

    def seed_step(self) -> None:
        """Seed torch's generators by seed, step and device."""
        draw = self.steps * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed((self.args.seed << 32) + draw)

    def draw_lambdas(self, count: int) -> Tensor:
        """Return random lambdas (count,), log-uniform over the range."""
        low, high = map(math.log, self.lambdas)
        return (low + (high - low) * torch.rand(count, device=self.device)).exp()

    def code(self, sketches: Tensor, lmbda: Tensor) -> dict:
        """Return the network's output for sketches (N, 1, H, W) in 0..1 at lambdas (N,).

        Its form is that of `rate_distortion`'s `output`.
        """
        inputs = [sketches.contiguous(memory_format=self.layout)]
        if self.args.model == "sketch":
            inputs.append(lmbda)
        output = self.net(*inputs)
        return {**output, "x_hat": output["x_hat"].float()}

    def training_step(self, sketches: Tensor, _: int) -> dict[str, Tensor]:
        """Update the weights by one batch; skip a batch whose gradient is not finite."""
        self.seed_step()
        lmbda = self.draw_lambdas(len(sketches))
        output = self.code(sketches, lmbda)
        with torch.autocast(self.device.type, enabled=False):
            losses = rate_distortion(output, sketches, lmbda, self.args.dist_metric)
            auxiliary = self.net.aux_loss()
        self.update(losses["loss"] + auxiliary)
        self.steps += 1
        losses = {name: value.detach() for name, value in losses.items()}
        self.log_dict({**losses, "aux_loss": auxiliary.detach(), **self.progress()})
        return losses

    def update(self, loss: Tensor) -> None:
        """Step both optimizers. Their losses share no parameter: one backward pass is enough."""
        main, auxiliary = self.optimizers()
        parameters = []
        for group in main.param_groups:
            group["lr"] = group["pace"] * self.learning_rate()
            parameters += group["params"]
        main.zero_grad()
        auxiliary.zero_grad()
        self.manual_backward(loss)
        norm = nn.utils.clip_grad_norm_(parameters, self.args.clip_max_norm or math.inf)
        if torch.isfinite(norm):
            main.step()
        auxiliary.step()

    def validation_step(self, sketches: Tensor, _: int) -> None:
        """Log the losses on test sketches."""
        means = {f"val_{name}": mean for name, mean in self.test_losses(sketches).items()}
        self.log_dict({**means, **self.progress()}, batch_size=len(sketches))

    def test_losses(self, sketches: Tensor) -> dict[str, Tensor]:
        """Return the mean losses over the rates, in float32, with rounding in place of noise.

        The network is in evaluation mode.
        """
        rows = []
        with torch.autocast(self.device.type, enabled=False):
            for rate in self.rates():
                lmbda = torch.full((len(sketches),), rate, device=self.device)
                output = self.code(sketches, lmbda)
                rows.append(rate_distortion(output, sketches, lmbda, self.args.dist_metric))
        means = {}
        for name in rows[0]:
            means[name] = torch.stack([row[name] for row in rows]).mean()
        return means

    def progress(self) -> dict[str, float]:
        """Return epoch and step, for the logs."""
        return {"epoch": self.epoch, "step": float(self.steps)}

    def identity(self) -> dict:
        """Return what a checkpoint must have in common with this training to be resumed."""
        return {
            "model": self.args.model,
            "lambdas": list(self.lambdas),
            "metric": self.args.dist_metric,
        }

    def best_loss(self) -> float | None:
        """Return the lowest test loss so far, if there is one."""
        for callback in self.trainer.checkpoint_callbacks:
            if callback.monitor and callback.best_model_score is not None:
                score = float(callback.best_model_score)
                return score if math.isfinite(score) else None
        return None

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add our own state to Lightning's."""
        progress = {"steps": self.steps, "seconds": self.seconds, "best_loss": self.best_loss()}
        checkpoint["training"] = {**self.identity(), **progress}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on with steps, time and optimizers of a checkpoint."""
        self.steps = checkpoint.progress.steps
        self.seconds = checkpoint.progress.seconds
        self.optimizer_states = checkpoint.optimizers

    def on_train_start(self) -> None:
        """Log at the steps at which a training that was not stopped would log."""
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.steps


def optimized_parts(net: nn.Module) -> tuple[list, list, list]:
    """Return the parameters of a network but its entropy bottleneck, the bottleneck's density, and
    its quantiles: each is learned at its own pace.
    """
    rest, density, quantiles = [], [], []
    for name, parameter in net.named_parameters():
        if name.endswith(".quantiles"):
            quantiles.append(parameter)
        elif name.startswith("entropy_bottleneck."):
            density.append(parameter)
        else:
            rest.append(parameter)
    return rest, density, quantiles


def keep_float32(model: EntropyModel) -> None:
    """Make an entropy model compute in float32 under autocast too.

    bfloat16 is too coarse for likelihoods.
    """
    inner = model.forward

    @functools.wraps(inner)
    def forward(*inputs: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [x.float() for x in inputs]
        named = {name: x.float() for name, x in named.items()}
        with torch.autocast(inputs[0].device.type, enabled=False):
            return inner(*inputs, **named)

    model.forward = forward
