"""Lightning callbacks of the sketch codecs' training: when to stop, progress, test images.

Trainer(callbacks=[Stop(), ProgressBar(), SketchImages(folder, every=5)])
"""

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, Trainer
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

if TYPE_CHECKING:
    from models_ntc.training import CodecTraining

MOST_SHOWN = 6  # test sketches in an image
SHOW_EVERY = 20  # steps between two updates of the losses, which wait for a GPU


class Stop(Callback):
    """Ends the training after the current step: at --epochs, at --max_seconds, or by a signal.

    Validation and checkpoints follow as after any epoch. A second signal has its usual effect.

    asked: whether a signal came.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_train_start(self, trainer: Trainer, training: "CodecTraining") -> None:
        """Start the clock; listen to Ctrl-C and SIGTERM."""
        self.began = time.monotonic() - training.seconds
        self.handlers = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self.ask)

    def ask(self, number: int, _: object) -> None:
        """Note a signal."""
        self.asked = True
        signal.signal(number, self.handlers[number])

    def on_train_batch_end(self, trainer: Trainer, training: "CodecTraining", *_: object) -> None:
        """Stop if it is time, on all devices after the same step."""
        training.seconds = trainer.strategy.broadcast(time.monotonic() - self.began)
        limit = training.args.max_seconds
        late = limit is not None and training.seconds >= limit
        asked = trainer.strategy.reduce_boolean_decision(self.asked, all=False)
        if asked or late or training.steps >= training.steps_in_all:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, training: "CodecTraining") -> None:
        """Stop listening to signals."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


class ProgressBar(Callback):
    """One progress bar over all epochs, and a line for each validation, on stderr.

    Lightning's TQDMProgressBar writes to stdout, which is for results here, and counts the steps of
    a single epoch.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, training: "CodecTraining") -> None:
        """Open the bar where the checkpoint left it."""
        self.bar = tqdm(
            total=training.steps_in_all,
            initial=training.steps,
            unit="step",
            file=sys.stderr,
            mininterval=2,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(
        self, trainer: Trainer, training: "CodecTraining", losses: dict, *_: object
    ) -> None:
        """Count a step, and show the losses now and then."""
        if training.steps % SHOW_EVERY == 1:
            shown = {name: f"{value.item():.4f}" for name, value in losses.items()}
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def on_validation_end(self, trainer: Trainer, training: "CodecTraining") -> None:
        """Write the losses on the test sketches."""
        losses = []
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val_"):
                losses.append(f"{name} {value:.4f}")
        if trainer.is_global_zero:
            time_spent = f"epoch {training.epoch:.4g}, {training.seconds:.0f} s"
            self.bar.write(f"{time_spent}: {' '.join(losses)}", file=sys.stderr)

    def on_train_end(self, trainer: Trainer, training: "CodecTraining") -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(
        self, trainer: Trainer, training: "CodecTraining", error: BaseException
    ) -> None:
        """Close the bar, so that the error has a line of its own."""
        if self.bar:
            self.bar.close()


class SketchImages(Callback):
    """Writes test sketches above their reconstructions, a row for each rate: PNG and TensorBoard.

    folder: of the PNG files. every: epochs between two images; 0: no images.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_validation_end(self, trainer: Trainer, training: "CodecTraining") -> None:
        """Write an image after each `every` epochs and at the end."""
        if not self.every or not trainer.is_global_zero:
            return
        if not trainer.should_stop and round(training.epoch) % self.every:
            return
        count = min(MOST_SHOWN, len(training.test_set))
        sketches = torch.stack([training.test_set[0, index] for index in range(count)])
        sketches = sketches.to(training.device)
        rows = [sketches]
        for rate in training.rates():
            lmbda = sketches.new_full((count,), rate)
            rows.append(training.code(sketches, lmbda)["x_hat"])
        grid = make_grid(torch.cat(rows).clamp(0, 1), nrow=count, padding=4, pad_value=0.5)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, self.folder / f"step{training.steps:07}.png")
        trainer.logger.experiment.add_image("sketches", grid, training.steps)
