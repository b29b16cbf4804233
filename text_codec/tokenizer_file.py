"""A tokenizer read from its `tokenizer.json` alone, to show prompts: it starts at once.

    tokenizer = FileTokenizer(Path("tiny/bundle/generator/tokenizer/tokenizer.json"))
    PromptCodec(tokenizer, max_tokens=0).decode(payload).text

transformers' CLIPTokenizer, which does the same, takes a second to import.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

END_OF_WORD = "</w>"  # of CLIP's byte-pair encoding


class FileTokenizer:
    """Ids -> text, as transformers' CLIPTokenizer of the same file does it.

    It has those of its methods that decoding a prompt's ids takes. Raises what the library does for
    a file that is none.
    """

    def __init__(self, file: Path):
        self._tokenizer = Tokenizer.from_file(str(file))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of the start and the end token."""
        added = self._tokenizer.get_added_tokens_decoder()
        return [token_id for token_id, token in added.items() if token.special]

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token."""
        return self._tokenizer.get_vocab()

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str | None]:
        """Return the tokens as they stand in the vocabulary; None for an id that has none."""
        return [self._tokenizer.id_to_token(token_id) for token_id in ids]

    def decode(self, ids: Sequence[int], clean_up_tokenization_spaces: bool = False) -> str:
        """Return the text of ids; the second argument is CLIPTokenizer's, and False alone."""
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text.replace(END_OF_WORD, " ").strip()

    def batch_decode(
        self, each: Iterable[Sequence[int]], clean_up_tokenization_spaces: bool = False
    ) -> list[str]:
        """Return the text of each of some lists of ids."""
        return [self.decode(ids) for ids in each]
