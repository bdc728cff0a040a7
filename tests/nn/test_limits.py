"""The limits of training say the same as the table of the chip."""

from ai8x.max7800x.device import MAX78000 as CHIP
from ai8x.nn import limits


def test_limits_of_training_are_those_of_the_chip() -> None:
    chip = CHIP.limits
    assert limits.MAX78000.max_channels == chip.max_channels
    assert limits.MAX78000.max_conv1d_dilation == chip.max_dilation
    assert limits.MAX_POOL == chip.max_pool == chip.max_stride
    assert chip.max_conv1d_kernel == limits.MAX_CONV1D_KERNEL
    assert chip.max_pad == limits.MAX_PADDING
    assert chip.transposed_stride == limits.TRANSPOSED_STRIDE
    assert chip.max_channels == limits.MAX_LINEAR_FEATURES


def test_no_device_differs_from_the_chip_in_stride_only() -> None:
    names = [name for name in limits.TrainingLimits.__slots__
             if getattr(limits.NO_DEVICE, name) != getattr(limits.MAX78000, name)]
    assert names == ["name", "max_conv2d_stride"]
