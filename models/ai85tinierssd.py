"""The detector ai85tinierssd: a single-shot detector for 3x74x74 images, e.g. house numbers.

Known: maps of 18x18, 9x9, 4x4 and 2x2 with four boxes a place, 335,520 weights and 198,904,320 multiply-accumulates
for ten classes and the background, which this network has exactly. Own design: names of layers, and sizes and shapes
of the default boxes.

Source: spec/virtual-boards.md section 2; spec/silicon-measurements.md section 3.1; spec/max78000-cnn.md section 8.3;
spec/ai8x-training.md section 16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ai8x.nn.modules import Conv2d, FusedConv2dBNReLU, FusedMaxPoolConv2dBNReLU
from ai8x.training.boxes import Detections, detect_objects, prior_boxes

MAPS = (18, 9, 4, 2)
BOX_HEIGHTS = (0.25, 0.4, 0.6, 0.8)
"""Height of the default boxes of every map, as a share of the image."""
ASPECT_RATIOS = (0.3, 0.5, 0.75, 1.0)
"""Width over height of the four default boxes of every place: digits are narrower than high."""


class TinierSSD(nn.Module):
    """Twelve convolutions with BatchNorm and eight prediction layers with 32-bit outputs.

    Args:
        num_classes: classes, the background (class 0) included.
        num_channels: of the input.
        dimensions: height and width of the input: 74x74.
        device: accepted for the common call.
        bias: not used; every layer has one, because folding BatchNorm needs it.
        quantization: handed down to every layer.

    Attributes:
        priors_cxcy: default boxes (P, 4): centre x and y, width, height in [0, 1].
    """

    priors_cxcy: Tensor
    are_locations_wide = True
    are_scores_wide = True

    def __init__(self, num_classes: int = 11, num_channels: int = 3, dimensions: tuple[int, int] = (74, 74),
                 device: object = None, bias: bool = True, **quantization: Any) -> None:
        super().__init__()
        del bias, device
        if tuple(dimensions) != (74, 74):
            raise ValueError(f"ai85tinierssd takes 74x74 images, not {dimensions[0]}x{dimensions[1]}")
        self.num_classes = num_classes
        shared = {"padding": 1, "bias": True, **quantization}
        self.fire1 = FusedConv2dBNReLU(num_channels, 32, 3, **shared)
        self.fire2 = FusedConv2dBNReLU(32, 32, 3, **shared)
        self.fire3 = FusedMaxPoolConv2dBNReLU(32, 64, 3, **shared)
        self.fire4 = FusedConv2dBNReLU(64, 64, 3, **shared)
        self.fire5 = FusedMaxPoolConv2dBNReLU(64, 64, 3, **shared)
        self.fire6 = FusedConv2dBNReLU(64, 64, 3, **shared)
        self.fire7 = FusedConv2dBNReLU(64, 128, 3, **shared)
        self.fire8 = FusedConv2dBNReLU(128, 32, 3, **shared)
        self.fire9 = FusedMaxPoolConv2dBNReLU(32, 32, 3, **shared)
        self.fire10 = FusedMaxPoolConv2dBNReLU(32, 32, 3, **shared)
        self.conv12_1 = FusedConv2dBNReLU(32, 16, 3, **shared)
        self.conv12_2 = FusedMaxPoolConv2dBNReLU(16, 16, 3, **shared)
        boxes = len(ASPECT_RATIOS)
        for name, channels in (("fire8", 32), ("fire9", 32), ("fire10", 32), ("conv12_2", 16)):
            setattr(self, f"loc_{name}", Conv2d(channels, 4 * boxes, 3, wide=True, **shared))
            setattr(self, f"cl_{name}", Conv2d(channels, num_classes * boxes, 3, wide=True, **shared))
        self.register_buffer("priors_cxcy", prior_boxes(MAPS, BOX_HEIGHTS, ASPECT_RATIOS), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Box offsets and class scores of every default box.

        Shapes:
            images (N, channels, 74, 74); returns (N, P, 4) and (N, P, classes), P = 1,700.
        """
        data = self.fire4(self.fire3(self.fire2(self.fire1(images))))
        fire8 = self.fire8(self.fire7(self.fire6(self.fire5(data))))
        fire9 = self.fire9(fire8)
        fire10 = self.fire10(fire9)
        features = {"fire8": fire8, "fire9": fire9, "fire10": fire10, "conv12_2": self.conv12_2(self.conv12_1(fire10))}
        offsets = [_by_box(getattr(self, f"loc_{name}")(data), 4) for name, data in features.items()]
        scores = [_by_box(getattr(self, f"cl_{name}")(data), self.num_classes) for name, data in features.items()]
        return torch.cat(offsets, dim=1), torch.cat(scores, dim=1)

    def detect_objects(self, offsets: Tensor, scores: Tensor, min_score: float, max_overlap: float, top_k: int
                       ) -> list[Detections]:
        """What the outputs show, one entry an image; see `ai8x.training.boxes.detect_objects`."""
        return detect_objects(offsets, scores, self.priors_cxcy, min_score=min_score, max_overlap=max_overlap,
                              top_k=top_k)


def _by_box(outputs: Tensor, size: int) -> Tensor:
    """(N, boxes * size, H, W) to (N, H * W * boxes, size)."""
    return outputs.permute(0, 2, 3, 1).reshape(outputs.shape[0], -1, size)


def ai85tinierssd(pretrained: bool = False, **arguments: Any) -> TinierSSD:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return TinierSSD(**arguments)


models = [
    {"name": "ai85tinierssd", "min_input": 1, "dim": 2, "input": (3, 74, 74), "num_classes": 11, "detection": True},
]
