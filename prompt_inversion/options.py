"""What a user may choose about prompts: the settings behind the `--prompt...` flags."""

from dataclasses import dataclass

SOURCES = ("search", "caption")  # of prompts that the user does not give
SEARCHES = ("fast", "pez")  # descent and swaps, or the published descent alone


@dataclass(frozen=True)
class PromptOptions:
    """Where prompts come from, and what a search may cost; None means the preset's own value.

    Raises ValueError for an unknown source or search.
    """

    text: str | None = None  # the prompt of every image; None: see `source`
    source: str | None = None  # one of SOURCES
    search: str = "fast"  # one of SEARCHES
    length: int | None = None  # number of tokens of a searched prompt
    size: int | None = None  # maximum bytes of a searched prompt, in place of a length
    bits: int | None = None  # search the 2**bits most useful tokens; 0: all tokens
    ascending: bool = False  # search ids in ascending order, which takes fewer bytes
    steps: int | None = None  # number of search steps; None for "pez": the published 3,000
    seconds: float | None = None  # time limit of the search of images searched together
    seed: int = 0  # of the search
    sent: bool = True  # False: there is no prompt, and the file has no text layer

    def __post_init__(self):
        if self.source not in (None, *SOURCES):
            raise ValueError(
                f"unknown source of prompts {self.source!r}: choose one of {', '.join(SOURCES)}"
            )
        if self.search not in SEARCHES:
            raise ValueError(
                f"unknown prompt search {self.search!r}: choose one of {', '.join(SEARCHES)}"
            )
