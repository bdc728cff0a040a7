"""Plain torch models as fused layers of the chip; start at `convert`."""

from ai8x.nn.conversion.convert import convert
from ai8x.nn.conversion.model import ConversionReport, ConvertedModel

__all__ = ["ConversionReport", "ConvertedModel", "convert"]
