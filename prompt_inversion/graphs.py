"""Functions of tensors replayed as CUDA graphs: thousands of small kernels, started at once.

    cosines = Replayed(tower.cosines)
    cosines(ids, targets)       # captured at the first call with these shapes, replayed at others

A step of the prompt search does so little at a time that a GPU waits for Python to start it.
"""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch

from prompt_inversion.clip import Clip
from prompt_inversion.tower import TextTower

Tensors = tuple[torch.Tensor, ...]
MOST = 8  # shapes that are captured, each with memory of its own; others run as they are
WARM_UPS = 2  # calls before a capture, in which libraries make what they need once

_towers: WeakKeyDictionary[Clip, "ReplayedTower"] = WeakKeyDictionary()


class ReplayedTower:
    """A TextTower whose `gradient` and `cosines` are replayed."""

    def __init__(self, tower: TextTower):
        self.gradient = Replayed(tower.gradient)
        self.cosines = Replayed(tower.cosines)

    @classmethod
    def of(cls, clip: Clip) -> "ReplayedTower":
        """Return that of a CLIP, which keeps it as long as it lives."""
        if clip not in _towers:
            _towers[clip] = cls(TextTower(clip))
        return _towers[clip]


class Replayed:
    """A function of tensors on one GPU, captured for each shape of its inputs.

    It must not depend on anything else that changes.
    """

    def __init__(self, function: Callable[..., torch.Tensor | Tensors]):
        self.function = function
        self._captured: dict[tuple, tuple] = {}  # {shapes: (inputs, replay, outputs)}

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor | Tensors:
        """Return what the function does."""
        shapes = tuple(given.shape for given in inputs)
        if shapes not in self._captured:
            if len(self._captured) == MOST:
                return self.function(*inputs)
            own = tuple(given.clone() for given in inputs)
            self._captured[shapes] = (own, *capture(self.function, own))
        own, replay, outputs = self._captured[shapes]
        for place, given in zip(own, inputs, strict=True):
            place.copy_(given)
        replay()
        # The next replay writes to the same memory.
        if isinstance(outputs, torch.Tensor):
            return outputs.clone()
        return tuple(output.clone() for output in outputs)


def capture(
    function: Callable[..., torch.Tensor | Tensors], inputs: Sequence[torch.Tensor]
) -> tuple[Callable[[], None], torch.Tensor | Tensors]:
    """Return what computes a function of tensors anew, from and to the same memory; its outputs.

    After https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. Other threads may use
    the GPU meanwhile.
    """
    with torch.cuda.device(inputs[0].device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = function(*inputs)
    return graph.replay, outputs
