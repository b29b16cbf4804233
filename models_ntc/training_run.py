"""A run of training: resume, train with Lightning, write the codec.

    python train_compressai.py -d runs/sketches --checkpoint runs/NAME/checkpoint.pth.tar

Lightning is not told of the checkpoint. It would restore the states of its callbacks, and these
hold paths that it later deletes.
"""

import logging
import os
import warnings
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from models_ntc import codec_file
from models_ntc.checkpoint import KIND, best_weights, checkpoint_callbacks, read_checkpoint
from models_ntc.codec_file import compute_tables, save_codec
from models_ntc.errors import CodecFileError, refusing
from models_ntc.training import CodecTraining
from models_ntc.training_callbacks import ProgressBar, SketchImages, Stop
from pretrained.libraries import ZOO


@dataclass(frozen=True)
class Result:
    """What a training leaves, and how it ended."""

    codecs: list[str]  # one for each rate, as `load_sketch_codec` takes them
    checkpoint: Path  # the last
    is_rank_0: bool  # whether this process writes and reports
    interrupted: bool  # by a signal


def train(args: Namespace) -> Result:
    """Train until --epochs, --max_seconds or a signal; write the codec with the best test loss."""
    quiet()
    torch.set_flush_denormal(True)
    training = CodecTraining(args)
    stop = Stop()
    lambdas = args.lambda_range or [args.lmbda]
    name = f"{args.model}_lmbda{'-'.join(map(str, lambdas))}"
    folder = Path(args.out or f"runs/{name}")
    best = folder / "checkpoint_best_loss.pth.tar"
    best_loss = resume(Path(args.checkpoint), best, training) if args.checkpoint else None
    callbacks = [stop, ProgressBar(), SketchImages(folder / "pictures", args.picture_every)]
    if args.save:
        callbacks += checkpoint_callbacks(folder, best_loss)
    trainer = make_trainer(args, folder, callbacks, training.steps_per_epoch)
    if training.steps < training.steps_in_all:
        trainer.fit(training)
    codec = folder / f"{name}.safetensors"
    if trainer.is_global_zero:
        export(training, best, codec)
    codecs = [str(codec)]
    if args.lambda_range:
        codecs = [f"{codec}@{rate:g}" for rate in training.rates()]
    return Result(codecs, folder / "checkpoint.pth.tar", trainer.is_global_zero, stop.asked)


def quiet() -> None:
    """Silence Lightning's log messages; this module says what a user must know."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def make_trainer(
    args: Namespace, folder: Path, callbacks: list[Callback], steps_per_epoch: int
) -> Trainer:
    """Return a trainer that logs into `folder`; the callback Stop ends its training.

    Raises ValueError if there are no such devices.
    """
    logs = folder / "logs"
    settings = {
        "accelerator": args.accelerator,
        "devices": args.devices,
        "strategy": "ddp" if args.devices > 1 else "auto",
        "precision": args.precision,
        "max_epochs": -1,
        "callbacks": callbacks,
        "logger": [TensorBoardLogger(logs, "tensorboard"), CSVLogger(logs, "csv")],
        "log_every_n_steps": min(10, steps_per_epoch),
        "enable_checkpointing": args.save,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "inference_mode": False,
        # Under SLURM, Lightning would resume by itself from hpc_ckpt_*.ckpt in its root folder.
        "default_root_dir": os.devnull,
    }
    if SLURMEnvironment.detect():
        settings["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    try:
        return Trainer(**settings)
    except MisconfigurationException as error:
        raise ValueError(f"--accelerator {args.accelerator}: {error}") from error


def resume(path: Path, best: Path, training: CodecTraining) -> float | None:
    """Load a checkpoint's weights, and go on with its training if that is the same.

    best: where the state with the best test loss is kept. Returns its loss, if it is of the same
    run as the checkpoint.

    Raises CodecFileError if it is no checkpoint of this network.
    """
    checkpoint = read_checkpoint(path, training)
    training.load_state_dict(checkpoint.weights)
    check_losses(path, training)
    progress = vars(checkpoint.progress)
    identity = training.identity()
    if {name: progress[name] for name in identity} != identity:
        return None
    training.restore(checkpoint)
    same_run = best.is_file() and best.resolve().parent == path.resolve().parent
    return checkpoint.progress.best_loss if same_run else None


@torch.no_grad()
def check_losses(path: Path, training: CodecTraining) -> None:
    """Raise CodecFileError unless the losses on a test sketch are finite.

    path: the checkpoint that the weights came from.
    """
    training.net.eval()
    losses = training.test_losses(training.test_set[0, 0][None])
    training.net.train()
    with refusing(path, KIND):
        if not all(value.isfinite() for value in losses.values()):
            raise CodecFileError("its weights give a loss that is not finite")


def export(training: CodecTraining, best: Path, path: Path) -> None:
    """Write the codec that `models_ntc.load_sketch_codec` reads.

    best: the best checkpoint; if it does not exist, the current weights are written.

    Raises CodecFileError if the best checkpoint, or the network, cannot be used.
    """
    args = training.args
    if args.save and best.is_file():
        training.load_state_dict(best_weights(best, training))
    net = training.net.cpu()
    if args.model in ZOO:
        # The auxiliary loss of a short training leaves the quantiles too far apart.
        with refusing(path, codec_file.KIND):
            compute_tables(net, search=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    lmbda = None if args.lambda_range else args.lmbda
    save_codec(net, path, args.model, lmbda, args.dist_metric)
