"""Checkpoints of a training, read from what a stranger may have written.

    checkpoint = read_checkpoint(Path("checkpoint.pth.tar"), training)
    training.restore(checkpoint)

From the file come weights, the states of the optimizers and a few numbers, each checked by type,
shape and range. Everything else in it, such as the states of Lightning's callbacks, which hold
paths, is never looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from models_ntc.codec_file import read_tensors
from models_ntc.errors import CodecFileError, refusing
from models_ntc.limits import LAMBDAS, LOSSES, METRICS, SECONDS, STEPS
from models_ntc.pickled import StoredTensor
from models_ntc.schema import (
    check_ascending,
    check_finite,
    check_integer,
    check_layout,
    check_number,
    check_values,
)
from models_ntc.torch_file import TorchFile, open_torch_file

if TYPE_CHECKING:
    from models_ntc.training import CodecTraining

KIND = "checkpoint"
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, of the shape of the parameter
COUNTER = "step"  # of Adam's updates of a parameter
MOST_RATIO = 64.0
# below it, the square of a gradient may be 0 in float32
SMALLEST_SQUARE = 1e-30

# The state of Adam for a parameter: its counter and its moments.
AdamState = dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """How far a training was, and what it trained.

    best_loss: the lowest test loss so far; None if there is none, or the file does not tell it.
    """

    model: str
    lambdas: list[float]
    metric: str
    steps: int
    seconds: float
    best_loss: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on with.

    weights: the state dict of the LightningModule.
    optimizers: for each optimizer, the states of its parameters by their number.
    """

    weights: dict[str, Tensor]
    optimizers: list[dict[int, AdamState]]
    progress: Progress


def read_checkpoint(path: Path, training: "CodecTraining") -> Checkpoint:
    """Return what a checkpoint holds for a training of the same network.

    Raises CodecFileError, one line with the path, for any other file.
    """
    with refusing(path, KIND), open_torch_file(path) as file:
        kept = own_part(file.content, training.args.model)
        found = listed_weights(file, training)
        progress = read_progress(kept)
        weights = read_weights(file, found)
        optimizers = read_optimizers(file, training.configure_optimizers())
    return Checkpoint(weights, optimizers, progress)


def best_weights(path: Path, training: "CodecTraining") -> dict[str, Tensor]:
    """Return the weights of a checkpoint, as `read_checkpoint`."""
    with refusing(path, KIND), open_torch_file(path) as file:
        return read_weights(file, listed_weights(file, training))


def own_part(content: object, model: str) -> dict:
    """Return what train_compressai.py adds to Lightning's checkpoint."""
    kept = content.get("training") if type(content) is dict else None
    if type(kept) is not dict or kept.get("model") != model:
        raise CodecFileError(f"it holds no {model} network of train_compressai.py: see --model")
    return kept


def read_progress(kept: dict) -> Progress:
    """Return the numbers of our own part of a checkpoint."""
    progress = Progress(
        kept["model"],
        kept.get("lambdas"),
        kept.get("metric"),
        kept.get("steps"),
        kept.get("seconds"),
        kept.get("best_loss"),
    )
    check_ascending("lambdas", progress.lambdas, LAMBDAS)
    if progress.metric not in METRICS:
        raise CodecFileError("its metric is not known")
    check_integer("steps", progress.steps, STEPS)
    check_number("seconds", progress.seconds, SECONDS)
    if progress.best_loss is not None:
        check_number("best_loss", progress.best_loss, LOSSES)
    return progress


def listed_weights(file: TorchFile, training: "CodecTraining") -> dict[str, StoredTensor]:
    """Return where the weights lie, which must be exactly those of the training's network."""
    found = tensors_of(file.content, "state_dict")
    expected = training.state_dict()
    try:
        check_layout(found, expected, lambda name, dtype: (dtype,), tables=False)
    except CodecFileError as error:
        model = training.args.model
        raise CodecFileError(f"it holds a {model} network of other sizes: {error}") from error
    return found


def read_weights(file: TorchFile, found: dict[str, StoredTensor]) -> dict[str, Tensor]:
    """Return weights, which must be finite."""
    weights = read_tensors(file, found)
    check_values(weights, tables=False)
    return weights


def tensors_of(content: object, name: str) -> dict[str, StoredTensor]:
    """Return the tensors of a dict of the file by their names."""
    tensors = content.get(name) if type(content) is dict else None
    if type(tensors) is not dict:
        raise CodecFileError(f"it has no {name}")
    if not all(isinstance(value, StoredTensor) for value in tensors.values()):
        raise CodecFileError(f"its {name} holds something else than tensors")
    return tensors


def read_optimizers(file: TorchFile, fresh: Sequence) -> list[dict[int, AdamState]]:
    """Return the states of the optimizers.

    fresh: the training's own optimizers, whose parameters tell the shapes. Learning rates and other
    settings are theirs too, not the file's.
    """
    states = file.content.get("optimizer_states")
    if type(states) is not list or len(states) != len(fresh):
        raise CodecFileError(f"it has no states of {len(fresh)} optimizers")
    found = []
    for state, optimizer in zip(states, fresh, strict=True):
        parameters = []
        for group in optimizer.param_groups:
            parameters += group["params"]
        found.append(read_optimizer(file, state, parameters))
    return found


def read_optimizer(
    file: TorchFile, state: object, parameters: list[nn.Parameter]
) -> dict[int, AdamState]:
    """Return the state of one optimizer; parameters that were never updated have none."""
    by_number = state.get("state") if type(state) is dict else None
    if type(by_number) is not dict or len(by_number) > len(parameters):
        raise CodecFileError("its state of an optimizer is not that of Adam")
    found = {}
    for number, moments in by_number.items():
        check_integer("parameter's number", number, (0, len(parameters) - 1))
        found[number] = read_moments(file, moments, parameters[number])
    return found


def read_moments(file: TorchFile, moments: object, parameter: nn.Parameter) -> AdamState:
    """Return Adam's state of a parameter."""
    if type(moments) is not dict or set(moments) != {COUNTER, *MOMENTS}:
        raise CodecFileError("its state of a parameter is not that of Adam")
    shapes = {COUNTER: (), **dict.fromkeys(MOMENTS, tuple(parameter.shape))}
    for name, shape in shapes.items():
        stored = moments[name]
        if not isinstance(stored, StoredTensor) or stored.shape != shape:
            raise CodecFileError(f"its {name} is not of shape {list(shape)}")
        if stored.dtype != parameter.dtype:
            raise CodecFileError(f"its {name} is {stored.dtype}, expected {parameter.dtype}")
    state = read_tensors(file, moments)
    for name, value in state.items():
        check_finite(name, value, math.inf)
    check_moments(state)
    for name in MOMENTS:
        state[name] = torch.empty_like(parameter.detach()).copy_(state[name])
    return state


def check_moments(state: AdamState) -> None:
    """Raise unless gradients can have had these moments.

    By the inequality of Cauchy and Schwarz, the mean m and the mean square v of the same gradients
    have m^2 <= 52.9 v for Adam's usual rates of decay, 0.9 and 0.999. Larger steps of the weights
    than these allow would end the training in infinity.
    """
    low, high = STEPS
    mean, square = (state[name] for name in MOMENTS)
    possible = (mean.square() <= MOST_RATIO * square + SMALLEST_SQUARE).all()
    if not low <= state[COUNTER] <= high or not possible:
        raise CodecFileError("its state of a parameter is not one that Adam can have")


def checkpoint_callbacks(folder: Path, best_loss: float | None) -> list[ModelCheckpoint]:
    """Return callbacks that keep the best and the last state, under CompressAI's file names.

    best_loss: of the best state that is already in the folder; None if there is none.
    """
    shared = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    best = ModelCheckpoint(filename="checkpoint_best_loss", monitor="val_loss", **shared)
    last = ModelCheckpoint(filename="checkpoint", **shared)
    for callback in (best, last):
        callback.FILE_EXTENSION = ".pth.tar"
    if best_loss is not None:
        score = torch.tensor(best_loss)
        path = best.format_checkpoint_name({})
        best.best_k_models = {path: score}
        best.best_model_path = best.kth_best_model_path = path
        best.best_model_score = best.kth_value = score
    return [best, last]
