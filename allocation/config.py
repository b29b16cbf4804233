"""What a user may choose about a budget: the settings behind `--bytes`.

python -c "from allocation.config import BudgetConfig; print(BudgetConfig(budget=240))"
"""

from dataclasses import dataclass

from allocation.table import LEAST_BYTES
from codec import EncoderConfig

ALLOCATIONS = 4  # tried by default


@dataclass(frozen=True)
class BudgetConfig(EncoderConfig):
    """What a user may choose about encoding within a budget.

    A part of the file is fixed by `lam_sketch`, by `color_bytes`, and by a text, a caption, a
    length or a size of the prompt. A layer is left out by `sketch=False`, `color_bytes=0` and
    `PromptOptions(sent=False)`.

    Raises ValueError for a budget below LEAST_BYTES, or no allocation to try.
    """

    budget: int = 0  # bytes of the whole file
    allocations: int = ALLOCATIONS  # tried for each image, at most; 1: the table's own

    def __post_init__(self):
        super().__post_init__()
        if self.budget < LEAST_BYTES:
            raise ValueError(f"a budget of {self.budget} bytes: {LEAST_BYTES} are the least")
        if self.allocations < 1:
            raise ValueError(f"{self.allocations} allocations: 1 is the least")

    @property
    def fixes_prompt(self) -> bool:
        """Whether the prompt is sent as it is, whatever its size."""
        prompt = self.prompt
        searched = prompt.text is None and prompt.source in (None, "search")
        return prompt.sent and not (searched and prompt.length is None and prompt.size is None)
