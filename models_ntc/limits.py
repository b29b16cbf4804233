"""What a codec file or a checkpoint may hold: the declared ranges, both ends included.

python -c "from models_ntc.limits import CHANNELS; print(CHANNELS)"
"""

# The names of our networks, the first and the second; ZOO has those of CompressAI's.
MODEL = "sketch"
PICTURE = "picture"
METRICS = ("mse", "ms-ssim")
LAMBDAS = (1e-9, 1e9)
CHANNELS = (1, 2048)  # of a layer, and N and M of CompressAI's networks
# standard deviations in a table of Gaussians, and how many there are
SCALES = (1e-6, 1e6)
SCALE_LEVELS = (2, 4096)
# Sizes of `HyperpriorConfig` and of `PictureHyperpriorConfig` that are numbers of channels.
SKETCH_CHANNELS = (
    "quarter",
    "eighth",
    "sixteenth",
    "latent",
    "groups",
    "hyper_latent",
    "hyper",
)
PICTURE_CHANNELS = (*SKETCH_CHANNELS, "channels", "half")
WEIGHT = 65504.0  # magnitude of a weight: what float16 holds, in which codec files store some
# Parameters of the density of the hyper-latents. In training they stay far below; above, the
# density's logarithms may overflow, and tables that are as wide as its quantiles take gigabytes.
DENSITY = {"quantiles": 4096.0, "matrices": 1e3}
SYMBOLS = (-(2**15), 2**15 - 1)  # values that have a place in a coding table
MOST_TABLE = 2**21  # entries of the coding tables of one entropy model
STEPS = (0, 10**12)  # updates of the weights in a training
SECONDS = (0.0, 1e10)  # of a training
LOSSES = (0.0, 1e12)
