"""The models of a preset, loaded once in the background.

models = Models(get_preset("tiny"), "cpu")
models.encoder()        # waits until they are there
"""

from concurrent.futures import Future, ThreadPoolExecutor

from allocation import BudgetConfig, load_encoder
from codec import Decoder
from presets import Preset

FIRST_BUDGET = 300  # bytes; the models are the same for every budget
CANDIDATES = 2  # the page is to answer within seconds


class Models:
    """The encoder of a preset, whose decoder is its own.

    Loading begins at once, in a thread of its own.
    """

    def __init__(self, preset: Preset, device: str):
        self.preset = preset
        self.device = device
        pool = ThreadPoolExecutor(1, "models")
        self._loading: Future = pool.submit(self._load)
        pool.shutdown(wait=False)  # its one thread ends when they are there

    def encoder(self):
        """Return the encoder, a BudgetEncoder, once it is loaded.

        Raises what loading raised: UnavailableError, PresetError.
        """
        return self._loading.result()

    def decoder(self) -> Decoder:
        """Return the decoder once it is loaded. Raises as `encoder`."""
        return self.encoder().decoder

    def _load(self):
        config = BudgetConfig(budget=FIRST_BUDGET, candidates=CANDIDATES)
        return load_encoder(self.preset, config, self.device)
