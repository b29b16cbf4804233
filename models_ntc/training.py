"""Training of the sketch codecs on PyTorch Lightning, and the rate-distortion row of the result.

    python train_compressai.py -d runs/sketches -e 20 --lambda 1.0 --dist_metric ms-ssim

What is random in a step - the sketches, their crops and flips, the lambdas, the noise in place of rounding - is a
pure function of the seed and of the number of steps done. A checkpoint therefore needs no generator's state, and
a training that was stopped anywhere goes on with the very losses of one that was not.
"""

import functools
import logging
import math
import pickle
import signal
import sys
import time
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from compressai.entropy_models import EntropyModel
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from metrics import MS_SSIM_MIN_SIDE, edge_f1, ms_ssim
from models_ntc.codec import SketchCodec, load_sketch_codec, new_network, save_codec
from models_ntc.loss import rate_distortion
from models_ntc.zoo import ARCHITECTURES

DENSITY_PACE = 10.0  # learning rate of the hyperlatents' density over the rest's: short trainings left it too wide
WARM_STEPS = 200  # over which the learning rate rises, so that Adam's first steps do not undo a warm start
MOST_PICTURED = 6  # test sketches in a picture
MOST_MEASURED = 64  # test sketches that the row of a finished codec is measured on
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def pictures_under(folder: Path) -> list[Path]:
    """Picture files, however deep, sorted; none is a ValueError."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"no pictures under {folder}: generate_sketches.py writes DIR/train and DIR/test")
    return files


class Sketches(Dataset):
    """Crops of the gray pictures under a folder, however deep, as (1, height, width) float32 in 0..1.

    An item is asked for by (epoch, index).

    Args:
        folder: where the pictures are; one without any is a ValueError.
        size: height and width in pixels; smaller pictures are padded with black (no edge).
        seed: of the places and left-right flips, which differ from epoch to epoch; None takes the centre as it is.
    """

    def __init__(self, folder: Path, size: tuple[int, int], seed: int | None = None) -> None:
        self.files = pictures_under(folder)
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        epoch, index = place
        picture = np.array(Image.open(self.files[index]).convert("L"))
        missing = [max(0, wanted - side) for wanted, side in zip(self.size, picture.shape, strict=True)]
        picture = np.pad(picture, [(0, more) for more in missing])
        spare = [side - wanted for wanted, side in zip(self.size, picture.shape, strict=True)]
        top, left, flip = spare[0] // 2, spare[1] // 2, False
        if self.seed is not None:
            chance = np.random.default_rng((self.seed, epoch, index))
            top, left, flip = chance.integers(spare[0] + 1), chance.integers(spare[1] + 1), chance.random() < 0.5
        crop = picture[top : top + self.size[0], left : left + self.size[1]]
        return torch.from_numpy(np.ascontiguousarray(crop[:, ::-1] if flip else crop))[None].float() / 255


class RestOfEpoch:
    """Batch sampler: this device's (epoch, index) pairs of the current epoch's steps that are still to do.

    It has no length, so an epoch of Lightning's is what is left of one of ours.
    """

    def __init__(self, training: "CodecTraining") -> None:
        self.training = training

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        training, trainer = self.training, self.training.trainer
        epoch, done = divmod(training.steps, training.steps_per_epoch)
        order = np.random.default_rng((training.args.seed, epoch)).permutation(len(training.train_set))
        for step in range(done, training.steps_per_epoch):
            batch = order[step * training.batch_size : (step + 1) * training.batch_size]
            yield [(epoch, int(index)) for index in batch[trainer.global_rank :: trainer.world_size]]


def keep_float32(model: EntropyModel) -> None:
    """Let an entropy model compute in float32 under autocast too: bfloat16 is too coarse for likelihoods."""
    inner = model.forward

    @functools.wraps(inner)
    def forward(*inputs: Tensor, **named: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(inputs[0].device.type, enabled=False):
            return inner(*(x.float() for x in inputs), **{name: x.float() for name, x in named.items()})

    model.forward = forward


class CodecTraining(LightningModule):
    """Network, optimisers, data and losses; `args` are those of train_compressai.py.

    Attributes:
        steps: updates done, over all runs of a checkpoint. seconds: of training, over all runs.
    """

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.args = args
        self.lambdas = args.lambda_range or [args.lmbda, args.lmbda]
        self.steps, self.seconds = 0, 0.0
        torch.manual_seed(args.seed)
        self.layout = torch.channels_last if args.model == "sketch" else torch.contiguous_format
        sizes = {"lambda_range": tuple(self.lambdas)} if args.model == "sketch" else None
        self.net = new_network(args.model, sizes).to(memory_format=self.layout)
        for model in self.net.modules():
            if isinstance(model, EntropyModel):
                keep_float32(model)
        root = Path(args.dataset)
        self.train_set = Sketches(root / "train", args.patch_size, args.seed)
        self.test_set = Sketches(root / "test", args.patch_size)
        self.batch_size = min(args.batch_size, len(self.train_set) // args.devices * args.devices)
        if not self.batch_size:
            raise ValueError(f"{len(self.train_set)} sketches cannot be shared by {args.devices} devices")
        self.steps_per_epoch = len(self.train_set) // self.batch_size
        self.steps_in_all = args.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> float:
        """Epochs done, over all runs."""
        return self.steps / self.steps_per_epoch

    def rates(self) -> list[float]:
        """Lambdas of validation: the one, or the range's ends and its middle."""
        low, high = self.lambdas
        return [low] if low == high else [low, math.sqrt(low * high), high]

    def loader(self, data: Sketches, **order: object) -> DataLoader:
        """A loader whose worker processes stay from epoch to epoch."""
        workers = self.args.num_workers
        return DataLoader(data, num_workers=workers, persistent_workers=workers > 0, **order)

    def train_dataloader(self) -> DataLoader:
        """What is left of an epoch of training, see RestOfEpoch."""
        return self.loader(self.train_set, batch_sampler=RestOfEpoch(self))

    def val_dataloader(self) -> DataLoader:
        """All test sketches, on every device."""
        places = [(0, index) for index in range(len(self.test_set))]
        return self.loader(self.test_set, sampler=places, batch_size=self.args.test_batch_size)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the network, its densities at their own pace; Adam for the quantiles of the densities."""
        named = dict(self.net.named_parameters())
        quantiles = {name for name in named if name.endswith(".quantiles")}
        density = {name for name in named if name.startswith("entropy_bottleneck.")} - quantiles
        groups = [
            {"params": [p for name, p in named.items() if name not in density | quantiles], "pace": 1.0},
            {"params": [p for name, p in named.items() if name in density], "pace": DENSITY_PACE},
        ]
        return [
            torch.optim.Adam(groups, lr=self.args.learning_rate),
            torch.optim.Adam([named[name] for name in quantiles], lr=self.args.aux_learning_rate),
        ]

    def learning_rate(self) -> float:
        """After a short rise, cosine from --learning-rate to a hundredth; steps or seconds, what ends first."""
        done = self.steps / self.steps_in_all
        if self.args.max_seconds is not None:
            done = max(done, self.seconds / self.args.max_seconds)
        warm = min((self.steps + 1) / WARM_STEPS, 1.0)
        return warm * self.args.learning_rate * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))

    def seed_step(self) -> None:
        """Make torch's generators a function of seed, step and device."""
        draw = self.steps * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed((self.args.seed << 32) + draw)

    def draw_lambdas(self, count: int) -> Tensor:
        """(count,) lambdas, log-uniform over the range."""
        low, high = map(math.log, self.lambdas)
        return (low + (high - low) * torch.rand(count, device=self.device)).exp()

    def code(self, sketches: Tensor, lmbda: Tensor) -> dict:
        """The network's output for sketches (N, 1, H, W) in 0..1 at lambdas (N,), see `rate_distortion`."""
        sketches = sketches.contiguous(memory_format=self.layout)
        output = self.net(sketches, lmbda) if self.args.model == "sketch" else self.net(sketches)
        return {**output, "x_hat": output["x_hat"].float()}

    def training_step(self, sketches: Tensor, _: int) -> dict[str, Tensor]:
        """One update of both optimisers; a batch whose gradient is not finite is passed over."""
        self.seed_step()
        lmbda = self.draw_lambdas(len(sketches))
        output = self.code(sketches, lmbda)
        with torch.autocast(self.device.type, enabled=False):
            losses = rate_distortion(output, sketches, lmbda, self.args.dist_metric)
            auxiliary = self.net.aux_loss()
        self.update(losses["loss"] + auxiliary)
        self.steps += 1
        losses = {name: value.detach() for name, value in losses.items()}
        self.log_dict({**losses, "aux_loss": auxiliary.detach(), "epoch": self.epoch, "step": float(self.steps)})
        return losses

    def update(self, loss: Tensor) -> None:
        """Step both optimisers. The losses share no parameter, so one pass back serves both."""
        main, auxiliary = self.optimizers()
        for group in main.param_groups:
            group["lr"] = group["pace"] * self.learning_rate()
        main.zero_grad()
        auxiliary.zero_grad()
        self.manual_backward(loss)
        parameters = [p for group in main.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.args.clip_max_norm or math.inf)
        if torch.isfinite(norm):
            main.step()
        auxiliary.step()

    def validation_step(self, sketches: Tensor, _: int) -> None:
        """Log the mean losses over the rates, in float32 and with rounding in place of noise."""
        rows = []
        with torch.autocast(self.device.type, enabled=False):
            for rate in self.rates():
                lmbda = torch.full((len(sketches),), rate, device=self.device)
                rows.append(rate_distortion(self.code(sketches, lmbda), sketches, lmbda, self.args.dist_metric))
        means = {f"val_{name}": torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
        self.log_dict({**means, "epoch": self.epoch, "step": float(self.steps)}, batch_size=len(sketches))

    def identity(self) -> dict:
        """What a checkpoint must agree in, to go on and not only to start from its weights."""
        return {"model": self.args.model, "lambdas": list(self.lambdas), "metric": self.args.dist_metric}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add what is ours."""
        checkpoint["training"] = {**self.identity(), "steps": self.steps, "seconds": self.seconds}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Take back what is ours."""
        self.steps, self.seconds = checkpoint["training"]["steps"], checkpoint["training"]["seconds"]


class Stop(Callback):
    """Ends the training at --epochs, at --max_seconds and when a signal asks, after the step in hand.

    Validation and checkpoints follow as after any epoch. A second signal does what it did before.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_train_start(self, trainer: Trainer, training: CodecTraining) -> None:
        """Start the clock; listen to Ctrl-C and SIGTERM."""
        self.began = time.monotonic() - training.seconds
        self.handlers = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(self, number: int, _: object) -> None:
        """Note a signal."""
        self.asked = True
        signal.signal(number, self.handlers[number])

    def on_train_batch_end(self, trainer: Trainer, training: CodecTraining, *_: object) -> None:
        """Stop where the time has come; all devices in the same step."""
        training.seconds = trainer.strategy.broadcast(time.monotonic() - self.began)
        limit = training.args.max_seconds
        spent = limit is not None and training.seconds >= limit
        asked = trainer.strategy.reduce_boolean_decision(self.asked, all=False)
        trainer.should_stop |= asked or spent or training.steps >= training.steps_in_all

    def on_train_end(self, trainer: Trainer, training: CodecTraining) -> None:
        """Listen no more."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


class Bar(Callback):
    """One progress bar over all epochs, and a line for each validation, on stderr."""

    def on_train_start(self, trainer: Trainer, training: CodecTraining) -> None:
        """Open the bar where the checkpoint left it."""
        self.bar = tqdm(
            total=training.steps_in_all,
            initial=training.steps,
            unit="step",
            file=sys.stderr,
            mininterval=2,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer: Trainer, training: CodecTraining, losses: dict, *_: object) -> None:
        """Count; show the losses now and then, as that waits for a GPU."""
        if training.steps % 20 == 1:
            self.bar.set_postfix({name: f"{value.item():.4f}" for name, value in losses.items()}, refresh=False)
        self.bar.update()

    def on_validation_end(self, trainer: Trainer, training: CodecTraining) -> None:
        """Write the losses on the test sketches."""
        named = trainer.callback_metrics.items()
        row = " ".join(f"{name} {value:.4f}" for name, value in named if name.startswith("val_"))
        if trainer.is_global_zero:
            self.bar.write(f"epoch {training.epoch:.4g}, {training.seconds:.0f} s: {row}", file=sys.stderr)

    def on_train_end(self, trainer: Trainer, training: CodecTraining) -> None:
        """Close the bar."""
        self.bar.close()


class Pictures(Callback):
    """Test sketches over what the codec makes of them, a row for each rate: a file, and TensorBoard."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_validation_end(self, trainer: Trainer, training: CodecTraining) -> None:
        """Draw after each `every` epochs and at the end."""
        due = self.every and (trainer.should_stop or round(training.epoch) % self.every == 0)
        if not due or not trainer.is_global_zero:
            return
        count = min(MOST_PICTURED, len(training.test_set))
        sketches = torch.stack([training.test_set[0, index] for index in range(count)]).to(training.device)
        rows = [training.code(sketches, sketches.new_full((count,), rate))["x_hat"] for rate in training.rates()]
        grid = make_grid(torch.cat([sketches, *rows]).clamp(0, 1), nrow=count, padding=4, pad_value=0.5)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, self.folder / f"step{training.steps:07}.png")
        trainer.logger.experiment.add_image("sketches", grid, training.steps)


@dataclass(frozen=True)
class Result:
    """What a training left, and how it ended."""

    codecs: list[str]  # what `load_sketch_codec` takes, one for each rate
    checkpoint: Path  # the last
    main_process: bool  # whether this is the process that writes and reports
    interrupted: bool  # by a signal


def quiet() -> None:
    """Keep Lightning's notes off the terminal: what a user must know, this module says."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def keepers(folder: Path) -> list[ModelCheckpoint]:
    """Callbacks that keep the best and the last state, under CompressAI's names."""
    shared = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    best = ModelCheckpoint(filename="checkpoint_best_loss", monitor="val_loss", **shared)
    last = ModelCheckpoint(filename="checkpoint", **shared)
    for keeper in (best, last):
        keeper.FILE_EXTENSION = ".pth.tar"
    return [best, last]


def resume(path: Path, training: CodecTraining) -> Path | None:
    """Load a checkpoint's weights; give its path back when the training can go on from it.

    Raises:
        ValueError: it is no checkpoint of this network.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no checkpoint: it is not a file of torch.save")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint: {str(error).splitlines()[0]}") from error
    kept = state.get("training") if isinstance(state, dict) else None
    if not kept or kept["model"] != training.args.model:
        raise ValueError(f"{path} holds no {training.args.model} network of train_compressai.py: see --model")
    try:
        training.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path} holds a {training.args.model} network of other sizes") from error
    identity = training.identity()
    if {name: kept[name] for name in identity} != identity:
        return None
    training.on_load_checkpoint(state)
    return path


def train(args: Namespace) -> Result:
    """Train until --epochs or --max_seconds or a signal, keep the best by test loss, write its codec."""
    quiet()
    torch.set_flush_denormal(True)
    training, stop = CodecTraining(args), Stop()
    name = f"{args.model}_lmbda{'-'.join(map(str, args.lambda_range or [args.lmbda]))}"
    folder = Path(args.out or f"runs/{name}")
    checkpoint = resume(Path(args.checkpoint), training) if args.checkpoint else None
    trainer = Trainer(
        accelerator=args.accelerator,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        precision=args.precision,
        max_epochs=-1,  # Stop ends the training
        callbacks=[stop, Bar(), Pictures(folder / "pictures", args.picture_every), *keepers(folder)[: 2 * args.save]],
        logger=[TensorBoardLogger(folder / "logs", "tensorboard"), CSVLogger(folder / "logs", "csv")],
        log_every_n_steps=min(10, training.steps_per_epoch),
        enable_checkpointing=args.save,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    if training.steps < training.steps_in_all:
        trainer.fit(training, ckpt_path=checkpoint, weights_only=True)
    codec = folder / f"{name}.safetensors"
    if trainer.is_global_zero:
        export(training, folder / "checkpoint_best_loss.pth.tar", codec)
    codecs = [f"{codec}@{rate:g}" for rate in training.rates()] if args.lambda_range else [str(codec)]
    return Result(codecs, folder / "checkpoint.pth.tar", trainer.is_global_zero, stop.asked)


def export(training: CodecTraining, best: Path, path: Path) -> None:
    """Write the codec that `models_ntc.load_sketch_codec` reads: the best checkpoint's, or without one, the last."""
    if training.args.save and best.is_file():
        training.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    net, args = training.net.cpu(), training.args
    if args.model in ARCHITECTURES:
        net.update(force=True, update_quantiles=True)  # the auxiliary loss of a short training leaves them too wide
    path.parent.mkdir(parents=True, exist_ok=True)
    save_codec(net, path, args.model, None if args.lambda_range else args.lmbda, args.dist_metric)


def rate_distortion_row(name: str, folder: Path) -> dict:
    """Measure a codec, FILE or FILE@LAMBDA, on the first MOST_MEASURED sketches under `folder`, by its real payloads.

    Returns:
        {"codec", "model", "lambda", "metric", "sketches", "bytes" (mean), "bpp", "ms_ssim", "edge_f1",
        "encode_seconds", "decode_seconds"}; means over the sketches, each cut to multiples of 64 pixels.
        MS-SSIM is None where no sketch has sides of 161 pixels.
    """
    codec = load_sketch_codec(name)
    files = pictures_under(folder)[:MOST_MEASURED]
    rows = [measure(codec, file) for file in tqdm(files, desc="measuring", file=sys.stderr)]
    means = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    named = {key: codec.config[key] for key in ("model", "lambda", "metric")}
    return {"codec": name, **named, "sketches": len(rows), **means}


def measure(codec: SketchCodec, file: Path) -> dict:
    """One sketch's row, see `rate_distortion_row`."""
    sketch = np.array(Image.open(file).convert("L"))
    height, width = (max(64, side // 64 * 64) for side in sketch.shape)
    canvas = np.zeros((height, width), np.uint8)
    sketch = sketch[:height, :width]
    canvas[: sketch.shape[0], : sketch.shape[1]] = sketch
    started = time.monotonic()
    payload = codec.compress(canvas)
    encoded = time.monotonic()
    decoded = codec.decompress(payload)
    finished = time.monotonic()
    return {
        "bytes": len(payload),
        "bpp": 8 * len(payload) / canvas.size,
        "ms_ssim": ms_ssim(decoded, canvas) if min(canvas.shape) >= MS_SSIM_MIN_SIDE else None,
        "edge_f1": edge_f1(decoded, canvas).f1,
        "encode_seconds": encoded - started,
        "decode_seconds": finished - encoded,
    }
