"""Encoder and Decoder: images <-> bytes, by the codecs of all layers.

    encoder = Encoder(get_preset("tiny"), EncoderConfig(), "cpu")
    data = encoder.encode([image])[0]
    reconstruction = encoder.decoder.decode(data).image

A stream is all that a decoder is given: the prompt, the compressed sketch, the color map or base
layer, and the seed of the noise. Sketch and colors may be absent. The encoder owns a decoder and
asks it for candidates, so that both generate by the same code (docs/design.md).
"""

from codec.decoder import Conditions, Decoded, DecodeError, Decoder
from codec.editing import Edit, edit
from codec.encoder import Coded, Encoded, Encoder, EncoderConfig, Layers, code_colors

__all__ = [
    "Coded",
    "Conditions",
    "DecodeError",
    "Decoded",
    "Decoder",
    "Edit",
    "Encoded",
    "Encoder",
    "EncoderConfig",
    "Layers",
    "code_colors",
    "edit",
]
