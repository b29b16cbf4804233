"""What the rows of the table in annotator/__init__.py load: weights -> a function image -> sketch.

The filters are ControlNet's annotators (Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion
Models", ICCV 2023, https://github.com/lllyasviel/ControlNet/tree/main/annotator). HED is ours, depth and
segmentation run in transformers, PiDiNet, line art, M-LSD and OpenPose in controlnet_aux. Every filter works at
the picture's own size. Heavy imports wait for the filter that needs them.
"""

import importlib
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Annotator = Callable[[np.ndarray], np.ndarray]  # image (H, W, 3) uint8 RGB -> sketch (H, W) uint8

# Gray, by ITU-R BT.601, of the colours that ControlNet paints ADE20K's 150 classes with. Only 112 differ.
ADE20K_GRAYS = np.frombuffer(
    bytes.fromhex(
        "788aa33b77738c5de69563dd37729e59d0d36b6653b6565c586b21dc5c44b0b1b9a165b5da4071bf959856613d6a8a7d8c529c9f5ed0"
        "c31d76a783268f7cb241a2a54cac88d071a54d9aa920c9a782696858b24fcd2f9d4763ac9f235f2c8f65a8a6978ec036c6d68245a054"
        "50899b59b1a1c2934e4bab5fc45db0bd67665adc8bd69523e27735ad29a251ad3242ab53cd6bca8fb439"
    ),
    np.uint8,
)
# A pixel and its two neighbours: across, up and down, and along both diagonals.
DIRECTIONS = np.array([[[0, 0, 0], [1, 1, 1], [0, 0, 0]], [[0, 1, 0]] * 3, np.eye(3), np.eye(3)[::-1]], np.uint8)
# DPT's first fusion layer has nothing to add, so its published files leave these out; they are never used.
UNUSED_IN_DPT = "neck.fusion_stage.layers.0.residual_layer1."


@dataclass(frozen=True)
class Weights:
    """One place of a filter's weights: a path, or a hub id with its revision."""

    source: str
    revision: str | None = None
    file: str = ""  # in the source's folder

    def path(self) -> Path:
        """Return the weight file on this machine, fetched once from the hub if need be."""
        here = Path(self.source)
        if here.exists():
            return here / self.file if here.is_dir() else here
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.source, self.file, revision=self.revision))

    def tensors(self) -> dict:
        """Return the file's named tensors. Raises OSError or ValueError; runs no code of a pickle's."""
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
        """Return `network` with these tensors, all of them and no others, ready to draw. Raises ValueError."""
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{self.source} holds other weights than {type(network).__name__}'s") from error
        return network.float().eval().to(device)

    def pretrained(self, model_class, device: str):
        """Return a transformers model and its image processor. Raises OSError or ValueError."""
        from transformers import AutoImageProcessor

        place = {"revision": self.revision, "trust_remote_code": False}  # else the user is asked whether to run code
        processor = AutoImageProcessor.from_pretrained(self.source, **place)
        model, loaded = model_class.from_pretrained(self.source, output_loading_info=True, **place)
        if missing := [name for name in loaded["missing_keys"] if not name.startswith(UNUSED_IN_DPT)]:
            raise ValueError(f"{self.source} lacks {len(missing)} weights, the first {sorted(missing)[0]}")
        return processor, model.float().eval().to(device)


def canny(weights: Weights, device: str) -> Annotator:
    """OpenCV's Canny edges, 0 or 255, with the thresholds of ControlNet's own annotator."""
    import cv2

    return lambda image: cv2.Canny(image, 100, 200)


def hed(weights: Weights, device: str) -> Annotator:
    """Soft edges by a HED of any width: see annotator/hed.py."""
    import torch
    import torch.nn.functional as F

    from annotator.hed import FULL, HED, blocks_of

    tensors = weights.tensors()
    blocks = blocks_of(tensors)
    network = weights.fill(HED(blocks), tensors, device).to(memory_format=torch.channels_last)
    # Mirrored pixels keep the zero padding from drawing a frame; ControlNet's own HED does draw it.
    margin = 0 if blocks == FULL else 16

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        pixels = F.pad(_tensor(image, device), [margin] * 4, mode="reflect")
        soft = torch.sigmoid(network(pixels))[0, 0]
        return _gray(soft[margin : margin + image.shape[0], margin : margin + image.shape[1]])

    return draw


def scribble(weights: Weights, device: str) -> Annotator:
    """HED's edges thinned to their ridges and drawn again with a thick pen, 0 or 255, as ControlNet does."""
    import cv2

    soft_edges = hed(weights, device)

    def draw(image: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(soft_edges(image).astype(np.float32), (0, 0), 3.0)
        ridges = _ridges(smooth) & (smooth > 127)
        stroke = cv2.GaussianBlur(ridges.astype(np.uint8) * 255, (0, 0), 3.0)
        return np.where(stroke > 4, 255, 0).astype(np.uint8)

    return draw


def pidinet(weights: Weights, device: str) -> Annotator:
    """Soft edges by pixel difference networks (Su et al., ICCV 2021), whose weights want BGR."""
    import torch

    network = _from_controlnet_aux("pidi.model").pidinet()
    tensors = weights.tensors().get("state_dict", {})
    network = weights.fill(network, {name.removeprefix("module."): t for name, t in tensors.items()}, device)

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        return _gray(network(_tensor(image[:, :, ::-1], device) / 255)[-1][0, 0])

    return draw


def lineart(weights: Weights, device: str) -> Annotator:
    """A line drawing by "informative drawings" (Chan et al., CVPR 2022), white on black as ControlNet wants it."""
    import torch

    network = _from_controlnet_aux("lineart").Generator(3, 1, 3)
    network = weights.fill(network, weights.tensors(), device)

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        paper = network(_tensor(_to_multiple(image, 4), device) / 255)[0, 0]
        return 255 - _gray(paper[: image.shape[0], : image.shape[1]])

    return draw


def mlsd(weights: Weights, device: str) -> Annotator:
    """Straight lines by M-LSD (Gu et al., AAAI 2022), 0 or 255, with ControlNet's thresholds."""
    import cv2
    import torch

    network = _from_controlnet_aux("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    network = weights.fill(network, weights.tensors(), device)
    pred_lines = _from_controlnet_aux("mlsd.utils").pred_lines

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        sketch, padded = np.zeros(image.shape[:2], np.uint8), _to_multiple(image, 64)
        try:
            lines = pred_lines(padded, network, padded.shape[:2], 0.1, 0.1)  # least score, least length in pixels
        except IndexError:  # its answer where there is no line
            return sketch
        for x0, y0, x1, y1 in lines.astype(int).tolist():
            cv2.line(sketch, (x0, y0), (x1, y1), 255, 1)
        return sketch

    return draw


def depth(weights: Weights, device: str) -> Annotator:
    """Relative depth by MiDaS's DPT (Ranftl et al., ICCV 2021), stretched to 0..255, near = 255.

    Any depth-estimation model in transformers' layout will do.
    """
    import torch
    from transformers import AutoModelForDepthEstimation

    processor, model = weights.pretrained(AutoModelForDepthEstimation, device)

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        output = model(**processor(image, return_tensors="pt").to(device))
        near = processor.post_process_depth_estimation(output, [image.shape[:2]])[0]["predicted_depth"]
        near = near - near.min()
        return _gray(near / near.max().clamp(min=1e-6))

    return draw


def openpose(weights: Weights, device: str) -> Annotator:
    """Bodies by OpenPose (Cao et al., CVPR 2017), without hands and faces, drawn as ControlNet's stick figures.

    ControlNet tells limbs apart by colour; a sketch keeps the brightest channel: 153 for limbs, 255 for joints.
    """
    package, network = _from_controlnet_aux("open_pose"), _from_controlnet_aux("open_pose.model").bodypose_model()
    tensors = weights.tensors()  # named as in OpenPose's Caffe model, without the stage that comes first in the class
    names = {name: name.partition(".")[2] for name in network.state_dict()}
    named = {name: tensors[short] for name, short in names.items() if short in tensors}

    class Body(package.Body):
        def __init__(self):  # theirs reads the file unchecked
            self.model = weights.fill(network, named, device)

    detector = package.OpenposeDetector(Body())

    def draw(image: np.ndarray) -> np.ndarray:
        canvas = package.draw_poses(detector.detect_poses(image), *image.shape[:2], draw_hand=False, draw_face=False)
        return canvas.max(axis=2)

    return draw


def segmentation(weights: Weights, device: str) -> Annotator:
    """The kind of thing each pixel shows, by UperNet (Xiao et al., ECCV 2018) on ADE20K's 150 classes.

    ControlNet tells classes apart by colour; a sketch keeps the gray of that colour (`ADE20K_GRAYS`), which some
    classes share. Any semantic-segmentation model in transformers' layout with at most 150 classes will do.
    """
    import torch
    from transformers import AutoModelForSemanticSegmentation

    processor, model = weights.pretrained(AutoModelForSemanticSegmentation, device)
    if model.config.num_labels > len(ADE20K_GRAYS):
        raise ValueError(f"{weights.source} knows {model.config.num_labels} classes, there are grays for 150")

    @torch.inference_mode()
    def draw(image: np.ndarray) -> np.ndarray:
        output = model(**processor(image, return_tensors="pt").to(device))
        classes = processor.post_process_semantic_segmentation(output, [image.shape[:2]])[0]
        return ADE20K_GRAYS[classes.cpu().numpy()]

    return draw


def _from_controlnet_aux(module: str):
    """Import a module of controlnet_aux, which warns of packages that nothing here uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"controlnet_aux.{module}")


def _tensor(image: np.ndarray, device: str):
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in 0..255."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(device, torch.float32)


def _gray(soft) -> np.ndarray:
    """(H, W) tensor in 0..1 -> (H, W) uint8."""
    return (soft * 255).round().clamp(0, 255).byte().cpu().numpy()


def _to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Repeat the last row and column until both sides are multiples."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def _ridges(smooth: np.ndarray) -> np.ndarray:
    """Where (H, W) float32 is no lower than both neighbours in at least one of DIRECTIONS."""
    import cv2

    highest = [cv2.dilate(smooth, direction) for direction in DIRECTIONS]
    return np.any([smooth == high for high in highest], axis=0)
