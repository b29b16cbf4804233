"""What the rows of the table in annotator/__init__.py load: weights -> a function image -> sketch.

    annotate = hed(Weights("annotator/hed_tiny.safetensors"), "cpu")

These are ControlNet's annotators (Zhang et al., "Adding Conditional Control to Text-to-Image
Diffusion Models", ICCV 2023, https://github.com/lllyasviel/ControlNet/tree/main/annotator). HED is
our own code; depth and segmentation run in transformers; PiDiNet, line art, M-LSD and OpenPose run
in controlnet_aux. Every annotator works at the image's own size. Heavy imports happen in the
function that needs them.
"""

import importlib
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange

Annotator = Callable[[np.ndarray], np.ndarray]  # image (H, W, 3) uint8 RGB -> sketch (H, W) uint8

# The gray levels, by ITU-R BT.601, of ControlNet's colors for ADE20K's 150 classes. Only 112 of
# them are different.
ADE20K_GRAYS = np.frombuffer(
    bytes.fromhex(
        "788aa33b77738c5de69563dd37729e59d0d36b6653b6565c586b21dc5c44b0b1b9a165b5da4071bf95985661"
        "3d6a8a7d8c529c9f5ed0c31d76a783268f7cb241a2a54cac88d071a54d9aa920c9a782696858b24fcd2f9d47"
        "63ac9f235f2c8f65a8a6978ec036c6d68245a05450899b59b1a1c2934e4bab5fc45db0bd67665adc8bd69523"
        "e27735ad29a251ad3242ab53cd6bca8fb439"
    ),
    np.uint8,
)
# A pixel and its two neighbors: in a row, in a column, and along both diagonals.
DIRECTIONS = np.array(
    [
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    ],
    np.uint8,
)
# DPT's first fusion layer has nothing to add. Its published files do not have these weights; they
# are never used.
UNUSED_IN_DPT = "neck.fusion_stage.layers.0.residual_layer1."
STROKE = 3.0  # width of the scribbles, sigma in pixels
LEAST_SCORE = 0.1  # of M-LSD's lines
LEAST_LENGTH = 0.1  # of M-LSD's lines, pixels


@dataclass(frozen=True)
class Weights:
    """One source of an annotator's weights: a path, or a hub id with its revision."""

    source: str
    revision: str | None = None
    local_files_only: bool = False  # do not download
    file: str = ""  # in the source's folder

    def path(self) -> Path:
        """Return the weight file on this machine, downloaded once from the hub if needed."""
        here = Path(self.source)
        if here.is_dir():
            return here / self.file
        if here.exists():
            return here
        from huggingface_hub import hf_hub_download

        place = {"revision": self.revision, "local_files_only": self.local_files_only}
        return Path(hf_hub_download(self.source, self.file, **place))

    def tensors(self) -> dict:
        """Return the file's named tensors. No code of a pickle is run.

        Raises OSError or ValueError for a file that does not exist or holds something else.
        """
        import torch
        from safetensors.torch import load_file

        path = self.path()
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is damaged or holds other things than tensors") from error
        if not isinstance(tensors, dict):
            raise ValueError(f"{path} holds a {type(tensors).__name__}, not named tensors")
        return tensors

    def fill(self, network, tensors: dict, device: str):
        """Return `network` on the device with exactly these tensors as weights, in float32.

        Raises ValueError if tensors are missing, superfluous or of other shapes.
        """
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{self.source} holds other weights than {type(network).__name__}'s"
            ) from error
        return network.float().eval().to(device)

    def pretrained(self, model_class, device: str):
        """Return a transformers model and its image processor. Raises OSError or ValueError."""
        from transformers import AutoImageProcessor

        place = {"revision": self.revision, "local_files_only": self.local_files_only}
        place["trust_remote_code"] = False  # the default asks the user whether to run code
        processor = AutoImageProcessor.from_pretrained(self.source, **place)
        model, loaded = model_class.from_pretrained(self.source, output_loading_info=True, **place)
        missing = [name for name in loaded["missing_keys"] if not name.startswith(UNUSED_IN_DPT)]
        if missing:
            raise ValueError(
                f"{self.source} lacks {len(missing)} weights, the first {sorted(missing)[0]}"
            )
        return processor, model.float().eval().to(device)


def canny(weights: Weights, device: str) -> Annotator:
    """Return OpenCV's Canny edges, 0 or 255, with the thresholds of ControlNet's annotator."""
    import cv2

    return lambda image: cv2.Canny(image, 100, 200)


def hed(weights: Weights, device: str) -> Annotator:
    """Return soft edges by a HED of any width: see annotator/hed.py."""
    import torch
    import torch.nn.functional as F

    from annotator.hed import FULL, HED, blocks_of

    tensors = weights.tensors()
    blocks = blocks_of(tensors)
    network = weights.fill(HED(blocks), tensors, device).to(memory_format=torch.channels_last)
    # Without mirrored pixels, the zero padding causes a frame of edges. ControlNet's HED has it.
    margin = 0 if blocks == FULL else 16

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        pixels = F.pad(_tensor(image, device), [margin] * 4, mode="reflect")
        soft = torch.sigmoid(network(pixels))[0, 0]
        height, width = image.shape[:2]
        return _gray(soft[margin : margin + height, margin : margin + width])

    return draw


def hed_bsds500(weights: Weights, device: str) -> Annotator:
    """Return soft edges by HED's network for BSDS500, rounded down as ControlNet did."""
    import torch

    from annotator.hed import OriginalHED

    network = weights.fill(OriginalHED(), weights.tensors(), device)
    network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        edges = network(_tensor(image[:, :, ::-1], device))[0, 0]
        return (edges * 255).clamp(0, 255).byte().cpu().numpy()

    return draw


def scribble(weights: Weights, device: str) -> Annotator:
    """Return HED's edges, thinned to their ridges and drawn again with a thick pen, 0 or 255.

    This is ControlNet's annotator `scribble_hed`.
    """
    import cv2

    soft_edges = hed(weights, device)

    def draw(image: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(soft_edges(image).astype(np.float32), (0, 0), STROKE)
        ridges = _ridges(smooth) & (smooth > 127)
        stroke = cv2.GaussianBlur(ridges.astype(np.uint8) * 255, (0, 0), STROKE)
        return np.where(stroke > 4, 255, 0).astype(np.uint8)

    return draw


def pidinet(weights: Weights, device: str) -> Annotator:
    """Return soft edges by pixel difference networks (Su et al., ICCV 2021). The input is BGR."""
    import torch

    network = _from_controlnet_aux("pidi.model").pidinet()
    published = weights.tensors().get("state_dict", {})
    tensors = {name.removeprefix("module."): tensor for name, tensor in published.items()}
    network = weights.fill(network, tensors, device)

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        return _gray(network(_tensor(image[:, :, ::-1], device) / 255)[-1][0, 0])

    return draw


def lineart(weights: Weights, device: str) -> Annotator:
    """Return a line drawing by "informative drawings" (Chan et al., CVPR 2022), white on black."""
    import torch

    network = _from_controlnet_aux("lineart").Generator(3, 1, 3)
    network = weights.fill(network, weights.tensors(), device)

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        paper = network(_tensor(_to_multiple(image, 4), device) / 255)[0, 0]
        return 255 - _gray(paper[: image.shape[0], : image.shape[1]])

    return draw


def mlsd(weights: Weights, device: str) -> Annotator:
    """Return straight lines by M-LSD (Gu et al., AAAI 2022), 0 or 255, ControlNet's thresholds."""
    import cv2
    import torch

    network = _from_controlnet_aux("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    network = weights.fill(network, weights.tensors(), device)
    pred_lines = _from_controlnet_aux("mlsd.utils").pred_lines

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        sketch = np.zeros(image.shape[:2], np.uint8)
        padded = _to_multiple(image, 64)
        try:
            lines = pred_lines(padded, network, padded.shape[:2], LEAST_SCORE, LEAST_LENGTH)
        except IndexError:  # raised if there is no line
            return sketch
        for x0, y0, x1, y1 in lines.astype(int).tolist():
            cv2.line(sketch, (x0, y0), (x1, y1), 255, 1)
        return sketch

    return draw


def depth(weights: Weights, device: str) -> Annotator:
    """Return relative depth by MiDaS's DPT (Ranftl et al., ICCV 2021), 0..255, near = 255.

    Any depth-estimation model in transformers' layout can be used.
    """
    import torch
    from transformers import AutoModelForDepthEstimation

    processor, model = weights.pretrained(AutoModelForDepthEstimation, device)

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        output = model(**processor(image, return_tensors="pt").to(device))
        found = processor.post_process_depth_estimation(output, [image.shape[:2]])[0]
        near = found["predicted_depth"]
        near = near - near.min()
        return _gray(near / near.max().clamp(min=1e-6))

    return draw


def openpose(weights: Weights, device: str) -> Annotator:
    """Return bodies by OpenPose (Cao et al., CVPR 2017), as ControlNet's stick figures.

    Hands and faces are left out. ControlNet distinguishes limbs by color; a sketch keeps the
    brightest channel: 153 for limbs, 255 for joints.
    """
    package = _from_controlnet_aux("open_pose")
    network = _body_network(weights, device)

    class Body(package.Body):
        def __init__(self):  # in place of theirs, which reads a file without checks
            self.model = network

    detector = package.OpenposeDetector(Body())
    options = {"draw_hand": False, "draw_face": False}

    def draw(image: np.ndarray) -> np.ndarray:
        poses = detector.detect_poses(image)
        return package.draw_poses(poses, *image.shape[:2], **options).max(axis=2)

    return draw


def _body_network(weights: Weights, device: str):
    """Return OpenPose's network with published weights, which have the names of its Caffe model.

    In controlnet_aux's class, the name of a stage comes before each of these names.
    """
    network = _from_controlnet_aux("open_pose.model").bodypose_model()
    published = weights.tensors()
    tensors = {}
    for name in network.state_dict():
        short = name.partition(".")[2]
        if short in published:
            tensors[name] = published[short]
    return weights.fill(network, tensors, device)


def segmentation(weights: Weights, device: str) -> Annotator:
    """Return the class of each pixel by UperNet (Xiao et al., ECCV 2018), of ADE20K's 150 classes.

    ControlNet distinguishes classes by color; a sketch keeps the gray level of that color
    (`ADE20K_GRAYS`), which is the same for some classes. Any semantic-segmentation model in
    transformers' layout with at most 150 classes can be used.
    """
    import torch
    from transformers import AutoModelForSemanticSegmentation

    processor, model = weights.pretrained(AutoModelForSemanticSegmentation, device)
    if model.config.num_labels > len(ADE20K_GRAYS):
        raise ValueError(
            f"{weights.source} knows {model.config.num_labels} classes, there are grays for 150"
        )

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        output = model(**processor(image, return_tensors="pt").to(device))
        classes = processor.post_process_semantic_segmentation(output, [image.shape[:2]])[0]
        return ADE20K_GRAYS[classes.cpu().numpy()]

    return draw


def _from_controlnet_aux(module: str):
    """Import a module of controlnet_aux without its warnings about packages not used here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"controlnet_aux.{module}")


def _tensor(image: np.ndarray, device: str):
    """Return (1, 3, H, W) float32 in 0..255 of an image (H, W, 3) uint8."""
    import torch

    pixels = torch.from_numpy(np.array(image))
    return rearrange(pixels, "h w c -> 1 c h w").to(device, torch.float32)


def _gray(soft) -> np.ndarray:
    """Return (H, W) uint8 of a tensor (H, W) in 0..1."""
    return (soft * 255).round().clamp(0, 255).byte().cpu().numpy()


def _to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Return an image with its last row and column repeated until both sides are multiples."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def _ridges(smooth: np.ndarray) -> np.ndarray:
    """Return where (H, W) float32 is no lower than both neighbors in one of DIRECTIONS: bool."""
    import cv2

    is_ridge = np.zeros(smooth.shape, bool)
    for direction in DIRECTIONS:
        is_ridge |= smooth == cv2.dilate(smooth, direction)
    return is_ridge
