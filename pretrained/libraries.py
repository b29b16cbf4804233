"""diffusers and transformers imported without what this project does not use of them.

    with lean():
        from diffusers.models.controlnets.controlnet import ControlNetModel

Imported as they are, they bring torch's compiler, torchvision, SciPy and the code for many machines
with them, which takes longer than to decode a file. All of it is optional there: both ask once
whether a package is installed, and do without.
"""

import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from common.weights import UnavailableError

COMPILER = "torch._dynamo"
# Hidden from both libraries: image processors on tensors, scores of assisted generation.
HIDDEN = ("torchvision", "sklearn", "pandas")
# What diffusers imports for samplers and settings that few models have.
LATER = ("scipy.stats", "scipy.integrate", "torch.nn.attention.flex_attention")
# Packages that import or read all of their modules, hundreds, of which we need a few.
WHOLE = ("diffusers.models.transformers", "transformers.models")
# CompressAI's networks for images, for sketches too.
ZOO = (
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
)
TRAINING = ("compressai", "lightning", "tensorboard")
# Of transformers: whether to import an attention that is compiled.
FLEXIBLE = "is_torch_flex_attn_available"


@contextmanager
def lean() -> Iterator[None]:
    """Import and run parts of diffusers and transformers in this block without what is not needed.

    What they find out about installed packages stays for the process. If one of them was imported
    before, it stays as it is, and only torch's compiler is left out. After the block, whoever
    imports that gets it.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # diffusers asks for a GPU; `common.device` says what is wrong with it.
        warnings.filterwarnings("ignore", message="CUDA initialization")
        stack.enter_context(_in_place_of({COMPILER: _no_compiler()}))
        stack.enter_context(_in_place_of({name: _later(name) for name in LATER}))
        if _from_the_start():
            import accelerate  # noqa: F401 - it is used with several processes: before these are hidden

            stack.enter_context(_in_place_of(dict.fromkeys(HIDDEN)))
            stack.enter_context(_attribute(torch.distributed, "is_available", lambda: False))
            utils = _transformers_utils()
            # diffusers would read the file list of each installed package, to tell versions apart.
            stack.enter_context(_attribute(importlib.metadata, "packages_distributions", dict))
            for module in (utils, utils.import_utils):
                stack.enter_context(_attribute(module, FLEXIBLE, lambda: False))
            # It says that image processors without torchvision are others: none is used from here.
            stack.callback(utils.logging.set_verbosity, utils.logging.get_verbosity())
            utils.logging.set_verbosity_error()
        for name in WHOLE:
            stack.enter_context(_in_place_of({name: _package(name)}))
        yield


def whole(name: str) -> None:
    """Import a package of WHOLE with all of its modules, in a block of `lean` too."""
    if getattr(sys.modules.get(name), "__spec__", None) is None:
        sys.modules.pop(name, None)
        importlib.import_module(name)


@cache
def _from_the_start() -> bool:
    """Return whether neither library was imported before the first block."""
    return not {"transformers", "diffusers"} & set(sys.modules)


def _transformers_utils() -> ModuleType:
    """Import transformers without SciPy, which only its losses of detectors use.

    Return its module that says what is installed.
    """
    with _in_place_of({"scipy": None}):
        from transformers import utils

        utils.is_scipy_available()  # asked once, and remembered
    return utils


def _later(name: str) -> ModuleType:
    """Return a stand-in for a module, which is imported at its first use."""
    module = ModuleType(name)
    module.__path__ = []

    def attribute(wanted: str) -> object:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(importlib.import_module(name), wanted)

    module.__getattr__ = attribute  # type: ignore[method-assign]
    return module


def _no_compiler() -> ModuleType:
    """Return a stand-in for torch._dynamo: its decorators return functions as they are.

    No module is an instance of its OptimizedModule, which diffusers asks. Its submodules are found.
    """
    module = _package(COMPILER)
    module.eval_frame = ModuleType(f"{COMPILER}.eval_frame")  # type: ignore[attr-defined]
    module.eval_frame.OptimizedModule = type("OptimizedModule", (), {})
    module.__getattr__ = _decorator  # type: ignore[method-assign]
    return module


def _package(name: str) -> ModuleType:
    """Return a stand-in for a package in a library: its modules are found, its own code not run."""
    module = ModuleType(name)
    library, *inside = name.split(".")
    file = importlib.import_module(library).__file__
    module.__path__ = [str(Path(str(file)).parent.joinpath(*inside))]
    return module


def _decorator(name: str) -> Callable:
    """Return a decorator, with or without arguments, that does nothing."""
    if name.startswith("__"):
        raise AttributeError(name)

    def decorate(function: Callable | None = None, *_: object, **__: object) -> Callable:
        return function or (lambda decorated: decorated)

    return decorate


@contextmanager
def _in_place_of(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Put modules, or None for what shall not be found, in place of those not imported yet."""
    replaced = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(replaced)
    try:
        yield
    finally:
        for name, module in replaced.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextmanager
def _attribute(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute within the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def training_packages(what: str) -> Iterator[None]:
    """Turn a package of requirements-train.txt that is missing in this block into UnavailableError.

    what: needs it, for the message.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in TRAINING:
            raise
        raise UnavailableError(
            f"{what} needs {package}, which is not installed: "
            "pip install -r requirements-train.txt (compressai has wheels for Python 3.10 to 3.12)"
        ) from error


@contextmanager
def without_memory() -> Iterator[None]:
    """Make networks in this block whose tensors have shapes and dtypes, but no memory."""
    import torch

    with torch.device("meta"), without_draws():
        yield


@contextmanager
def without_draws() -> Iterator[None]:
    """Compute nothing for tensors without memory: torch would import its compiler, or SymPy."""
    import torch
    from torch.overrides import TorchFunctionMode

    class NoValues(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if function.__name__.endswith(("normal_", "uniform_")):
                tensor = args[0] if args else kwargs["tensor"]
                if tensor.is_meta:
                    return tensor
            if function is torch.empty_like and args[0].is_meta:
                return torch.empty(
                    args[0].shape, **{"dtype": args[0].dtype, "device": "meta", **kwargs}
                )
            if function in (torch.arange, torch.randn) and _are_whole(args):
                device = torch.device(kwargs.get("device") or torch.get_default_device())
                if device.type == "meta" and function is torch.arange:
                    dtype = kwargs.get("dtype") or torch.int64
                    return torch.empty(len(range(*args)), dtype=dtype, device=device)
                if device.type == "meta":
                    return torch.empty(*args, **{**kwargs, "device": device})
            return function(*args, **kwargs)

    with NoValues():
        yield


def _are_whole(args: Sequence[object]) -> bool:
    """Return whether arguments are whole numbers, no tensors."""
    return all(type(number) is int for number in args)
