"""Checkpoints of trainings that must be refused, or whose paths must not be believed.

for name, data in hostile_checkpoints(good).items(): ...
"""

import copy
from collections.abc import Callable

import torch

from helpers.codec_files import archive, records_of, saved, text, with_pickle

NAN = float("nan")
INFINITY = float("inf")
WEIGHT = "net.hyper_analysis.0.weight"
QUANTILES = "net.entropy_bottleneck.quantiles"
MATRIX = "net.entropy_bottleneck.matrices.0"


def poisoned(good: dict, victim: str) -> dict[str, bytes]:
    """Return checkpoints that a training can go on with, but that name a path to be deleted.

    victim: the path.
    """
    paths = copy.deepcopy(good)
    for name, state in paths["callbacks"].items():
        if name.startswith("ModelCheckpoint"):
            state.update(
                best_model_path=f"local://{victim}",
                kth_best_model_path=f"local://{victim}",
                last_model_path=f"local://{victim}",
                best_k_models={f"local://{victim}": torch.tensor(1e9)},
                best_model_score=torch.tensor(1e9),
                kth_value=torch.tensor(1e9),
            )
    others = copy.deepcopy(paths)
    for state in others["callbacks"].values():
        state["dirpath"] = victim
    others["loops"] = {"fit_loop": {"state_dict": {}}}
    others["hyper_parameters"] = {"root": victim}
    others["pytorch-lightning_version"] = "0.9.0"
    others["lr_schedulers"] = [{"last_epoch": -1}]
    return {"paths of callbacks": saved(paths), "other states of Lightning": saved(others)}


def hostile_checkpoints(good: dict) -> dict[str, bytes]:
    """Return the content of each file, by what is wrong with it."""
    content = saved(good)
    changes = {**progress_changes(), **weight_changes(), **optimizer_changes()}
    files = {}
    for name, change in changes.items():
        spoiled = copy.deepcopy(good)
        change(spoiled)
        files[name] = saved(spoiled)
    wide = pickle_of_text(100_000)
    return {
        **files,
        "a list": saved([good]),
        "a tensor": saved(torch.zeros(3)),
        "an empty file": b"",
        "a text": b"checkpoint\n" * 50,
        "an older form": saved({"training": 1}, zipped=False)[:300],
        "an archive that is cut off": content[:-500],
        "an archive that is compressed": archive(records_of(content), compression=8),
        "an archive without its numbers": archive({"data.pkl": records_of(content)["data.pkl"]}),
        "a pickle that runs a command": with_pickle(b"cos\nsystem\n" + text("false") + b"\x85R"),
        "a pickle with long names": with_pickle(wide),
    }


def pickle_of_text(length: int) -> bytes:
    """Return the operations that push a dict with a long model's name."""
    return b"}" + text("training") + b"}" + text("model") + text("\n" * length) + b"ss"


def progress_changes() -> dict[str, Callable[[dict], object]]:
    """Spoil what a training adds to Lightning's state."""
    values = {
        "model is of CompressAI": {"model": "mbt2018-mean"},
        "model is a list": {"model": []},
        "lambdas are not numbers": {"lambdas": [NAN, NAN]},
        "lambdas are texts": {"lambdas": ["0.5", "0.5"]},
        "lambdas are three": {"lambdas": [0.5, 0.5, 0.5]},
        "lambdas are negative": {"lambdas": [-0.5, -0.5]},
        "metric is unknown": {"metric": "fid"},
        "steps are not a number": {"steps": NAN},
        "steps are infinite": {"steps": INFINITY},
        "steps are a fraction": {"steps": 1.5},
        "steps are negative": {"steps": -1},
        "steps are true": {"steps": True},
        "steps are 10^30": {"steps": 10**30},
        "steps are a tensor": {"steps": torch.tensor(3)},
        "steps are a text": {"steps": "3"},
        "seconds are not a number": {"seconds": NAN},
        "seconds are infinite": {"seconds": INFINITY},
        "seconds are negative": {"seconds": -1.0},
        "seconds are None": {"seconds": None},
        "best loss is not a number": {"best_loss": NAN},
        "best loss is negative": {"best_loss": -1.0},
        "best loss is a text": {"best_loss": "local://x"},
    }
    changes = {name: _training(value) for name, value in values.items()}
    changes["nothing of a training"] = lambda state: state.pop("training")
    changes["a training that is a list"] = lambda state: state.update(training=[1])
    return changes


def _training(values: dict) -> Callable[[dict], object]:
    return lambda state: state["training"].update(values)


def weight_changes() -> dict[str, Callable[[dict], object]]:
    """Spoil the weights."""
    wide = torch.tensor([-1e9, 0.0, 1e9]).repeat(6, 1, 1)
    return {
        "no weights": lambda state: state.pop("state_dict"),
        "weights that are a list": lambda state: state.update(state_dict=[1]),
        "weights with numbers as names": lambda state: state["state_dict"].update({7: 7}),
        "a weight is missing": lambda state: state["state_dict"].pop(WEIGHT),
        "a weight too many": lambda state: state["state_dict"].update(other=torch.zeros(2)),
        "a weight of another shape": _weight(lambda value: value[:1].clone()),
        "a weight of doubles": _weight(torch.Tensor.double),
        "a weight that is a text": lambda state: state["state_dict"].update({WEIGHT: "x"}),
        "a weight that is not a number": _weight(lambda value: value * NAN),
        "a weight that is infinite": _weight(lambda value: value + INFINITY),
        "a weight that is an expanded view": _weight(
            lambda value: torch.zeros(1).expand(value.shape)
        ),
        "a weight that is sparse": _weight(torch.Tensor.to_sparse),
        "weights that overflow": _weight(lambda value: torch.full_like(value, 1e38)),
        "weights that are all 60,000": lambda state: state["state_dict"].update(
            {name: _large(value) for name, value in state["state_dict"].items()}
        ),
        "quantiles of 10^9": lambda state: state["state_dict"].update({QUANTILES: wide}),
        "a density that overflows": lambda state: state["state_dict"][MATRIX].fill_(1e38),
        "a table of 10^6 entries": lambda state: state["state_dict"].update(
            {"net.entropy_bottleneck._offset": torch.zeros(10**6, dtype=torch.int32)}
        ),
    }


def _large(value: torch.Tensor) -> torch.Tensor:
    return torch.full_like(value, 6e4) if value.ndim == 4 else value


def _weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], object]:
    def spoil(state: dict) -> None:
        state["state_dict"][WEIGHT] = change(state["state_dict"][WEIGHT])

    return spoil


def optimizer_changes() -> dict[str, Callable[[dict], object]]:
    """Spoil the states of the optimizers."""
    moments = {
        "a moment of another shape": ("exp_avg", lambda value: torch.zeros(3)),
        "a moment that is not a number": ("exp_avg", lambda value: value * NAN),
        "a moment that is 10^38": ("exp_avg", lambda value: torch.full_like(value, 1e38)),
        "a moment of halves": ("exp_avg", torch.Tensor.half),
        "a moment that is a text": ("exp_avg", lambda value: "x"),
        "a square that is negative": ("exp_avg_sq", lambda value: value - 1),
        "a counter that is not a number": ("step", lambda value: value * NAN),
        "a counter that is negative": ("step", lambda value: -value),
        "a counter of two numbers": ("step", lambda value: torch.ones(2)),
    }
    changes = {name: _moment(*change) for name, change in moments.items()}
    changes["no optimizers"] = lambda state: state.pop("optimizer_states")
    changes["one optimizer"] = lambda state: state["optimizer_states"].pop()
    changes["optimizers that are a dict"] = lambda state: state.update(optimizer_states={})
    changes["an optimizer that is a list"] = lambda state: state.update(optimizer_states=[[], []])
    changes["a parameter that is not there"] = _parameter(10**6)
    changes["a parameter with a text as number"] = _parameter("0")
    changes["a parameter without a moment"] = lambda state: first_moments(state).pop("exp_avg")
    changes["a parameter with another moment"] = lambda state: first_moments(state).update(
        max_exp_avg_sq=torch.zeros(3)
    )
    return changes


def first_moments(state: dict) -> dict:
    """Return the state of the first parameter of the first optimizer."""
    return state["optimizer_states"][0]["state"][0]


def _moment(name: str, change: Callable[[torch.Tensor], object]) -> Callable[[dict], object]:
    def spoil(state: dict) -> None:
        moments = first_moments(state)
        moments[name] = change(moments[name])

    return spoil


def _parameter(number: object) -> Callable[[dict], object]:
    def spoil(state: dict) -> None:
        states = state["optimizer_states"][0]["state"]
        states[number] = states.pop(0)

    return spoil
