"""diffusers and transformers imported without what this project does not use of them.

    with lean():
        from diffusers.models.controlnets.controlnet import ControlNetModel

Imported as they are, they bring torch's compiler, torchvision, SciPy and the code for many machines
with them, which takes longer than to decode a file. All of it is optional there: both ask once
whether a package is installed, and do without.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

COMPILER = "torch._dynamo"
# Hidden from both libraries: image processors on tensors, scores of assisted generation.
HIDDEN = ("torchvision", "sklearn", "pandas")


@contextmanager
def lean() -> Iterator[None]:
    """Import parts of diffusers and transformers in this block without what is not needed.

    What they find out about installed packages stays for the process. If one of them was imported
    before, it stays as it is, and only torch's compiler is left out.
    """
    import torch

    with ExitStack() as stack:
        if COMPILER not in sys.modules:
            stack.enter_context(_in_place_of({COMPILER: _no_compiler()}))
        if not {"transformers", "diffusers"} & set(sys.modules):
            import accelerate  # noqa: F401 - it is used with several processes: before these are hidden

            stack.enter_context(_in_place_of(dict.fromkeys(HIDDEN)))
            stack.enter_context(_attribute(torch.distributed, "is_available", lambda: False))
            _import_transformers()
            # diffusers imports it for settings that few models have; it is found again at first use.
            stack.enter_context(_in_place_of({"scipy.stats": ModuleType("scipy.stats")}))
        yield


def _import_transformers() -> None:
    """Import transformers without SciPy, which only its losses of detectors use."""
    with _in_place_of({"scipy": None}):
        import transformers

        transformers.utils.is_scipy_available()  # asked once, and remembered


def _no_compiler() -> ModuleType:
    """Return a stand-in for torch._dynamo: its decorators return functions as they are.

    Its submodules are found. Whoever imports torch._dynamo later gets the real one.
    """
    import torch

    module = ModuleType(COMPILER)
    module.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]
    module.__getattr__ = _decorator  # type: ignore[method-assign]
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
def without_memory() -> Iterator[None]:
    """Make networks in this block whose tensors have shapes and dtypes, but no memory.

    Their first values are not drawn: torch would import its compiler for that.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class NoDraws(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function.__name__.endswith(("normal_", "uniform_")):
                return args[0] if args else kwargs["tensor"]
            return function(*args, **(kwargs or {}))

    with torch.device("meta"), NoDraws():
        yield
