"""What turns target images and spectrograms into codes and back (spec: MODEL.md section 10).

`ImageCodec` is a convolutional VQGAN, `AudioCodec` a ViT-VQGAN. Both take and give codes as one sequence in the order
the decoder writes them, counted from 0: tokens are codes + 2 (section 6). Both are pure functions of their parameters.
"""

from uio2.model.codecs.audio import AudioCodec
from uio2.model.codecs.image import ImageCodec

__all__ = ["AudioCodec", "ImageCodec"]
