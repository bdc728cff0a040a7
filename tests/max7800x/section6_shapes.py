"""Rows of section 6.1: network and shapes. Start at `SHAPE_ROWS`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ai8x.max7800x.constraints_layers import check_conv1d_dilation
from ai8x.network.ir import Activation, ConvSpec, Op, Pool, PoolSpec, TensorShape

from .constraint_examples import (
    PLAIN,
    codes,
    conv1d,
    pooled,
    shaped,
    single,
    transposed,
    wide,
)
from .lowering_examples import MAX_2X2, conv, linear, network_of, passthrough, place
from .section6 import (
    TWICE,
    WIDE,
    Row,
    added,
    deep,
    file_key,
    only,
    read,
    samples,
)


def _pool_of(window: tuple[int, int], stride: tuple[int, int]) -> Any:
    return conv(0, (4, 20, 20), 4, pool=PoolSpec(kind=Pool.MAX, window=window, stride=stride))


POOLED_PASS = {"pool": MAX_2X2, "out_shape": TensorShape(4, 2, 2)}

SHAPE_ROWS = (
    Row(
        section="6.1",
        number=1,
        limit="32 layers",
        rules=("check_layer_count",),
        legal=(lambda: deep(32),),
        illegal=((lambda: deep(33), ["E0311"]),),
    ),
    Row(
        section="6.1",
        number=1,
        limit="in order, from earlier layers",
        legal=(read("op: conv2d, next_sequence: stop"), read("op: conv2d, in_sequences: -1")),
        illegal=(
            (read("op: conv2d, in_sequences: 0"), ["E0231"]),
            (read("op: none, next_sequence: 2", more="- {op: none}\n- {op: none}\n", weights=None), ["E0240"]),
        ),
    ),
    Row(
        section="6.1",
        number=2,
        limit="1024 channels, 16 passes",
        rules=("check_channels",),
        legal=(lambda: single(wide((1024, 2, 2), 4)), lambda: single(wide((4, 2, 2), 1024, kernel=1, pad=0))),
        illegal=(
            (lambda: single(wide((1025, 2, 2), 4)), ["E0314"]),
            (lambda: single(wide((4, 2, 2), 1025, kernel=1, pad=0)), ["E0314", "E0417"]),
        ),
    ),
    Row(
        section="6.1",
        number=3,
        limit="1023 rows and columns",
        rules=("check_size",),
        legal=(
            lambda: single(shaped((1, 1023, 2), (1, 1023, 2), ConvSpec())),
            lambda: single(shaped((1, 2, 1023), (1, 2, 1023), ConvSpec())),
        ),
        illegal=(
            (lambda: single(shaped((1, 1024, 2), (1, 1024, 2), ConvSpec())), ["E0315"]),
            (lambda: single(shaped((1, 2, 1024), (1, 2, 1024), ConvSpec())), ["E0315"]),
        ),
    ),
    Row(
        section="6.1",
        number=3,
        limit="counters of 10 bits",
        rules=("check_size",),
        legal=(
            lambda: single(shaped((1, 1022, 2), (1, 1022, 2), PLAIN)),
            lambda: single(shaped((1, 2, 1022), (1, 2, 1022), PLAIN)),
        ),
        illegal=(
            (lambda: single(shaped((1, 1023, 2), (1, 1023, 2), PLAIN)), ["E0315"]),
            (lambda: single(shaped((1, 2, 1023), (1, 2, 1023), PLAIN)), ["E0315"]),
        ),
    ),
    Row(
        section="6.1",
        number=3,
        limit="no dimension of 0",
        legal=(read("op: conv2d, pad: 0", shape=(4, 3, 3)),),
        illegal=((read("op: conv2d, pad: 0", shape=(4, 2, 3)), ["E0237"]), (read("op: conv2d, in_dim: 0"), ["E0205"])),
    ),
    Row(
        section="6.1",
        number=4,
        limit="frames below 2**21 words",
        rules=("check_frame",),
        legal=(lambda: only("E0316", single(shaped((1024, 512, 255), (4, 512, 255), PLAIN))),),
        illegal=((lambda: only("E0316", single(shaped((1024, 512, 256), (4, 512, 256), PLAIN))), ["E0316"]),),
    ),
    Row(
        section="6.1",
        number=5,
        limit="operators",
        legal=(
            read("op: conv2d"),
            read("op: none", weights=None),
            read("op: xor, in_sequences: [-1, -1]", weights=None),
        ),
        illegal=((read("op: conv3d"), ["E0205"]), (read("op: maxpool2d"), ["E0205"])),
    ),
    Row(
        section="6.1",
        number=6,
        limit="Conv2d kernel 1x1 or 3x3",
        rules=("check_conv2d",),
        legal=(lambda: single(conv(0, (4, 8, 8), 4)), lambda: single(conv(0, (4, 8, 8), 4, kernel=1, pad=0))),
        illegal=(
            (lambda: single(shaped((4, 8, 8), (4, 4, 4), ConvSpec(kernel=(5, 5)))), ["E0317"]),
            (lambda: single(shaped((4, 8, 8), (4, 7, 7), ConvSpec(kernel=(2, 2)))), ["E0317"]),
            (lambda: single(shaped((4, 8, 8), (4, 8, 6), ConvSpec(kernel=(1, 3)))), ["E0317"]),
        ),
    ),
    Row(
        section="6.1",
        number=6,
        limit="Conv2d dilation 1",
        rules=("check_conv2d",),
        legal=(lambda: single(shaped((4, 8, 8), (4, 8, 8), PLAIN)),),
        illegal=((lambda: single(shaped((4, 8, 8), (4, 6, 6), replace(PLAIN, dilation=(2, 2)))), ["E0319"]),),
    ),
    Row(
        section="6.1",
        number=6,
        limit="Conv2d stride 1",
        rules=("check_conv_stride",),
        legal=(lambda: single(shaped((4, 8, 8), (4, 8, 8), PLAIN)),),
        illegal=(
            (lambda: single(shaped((4, 8, 8), (4, 4, 4), replace(PLAIN, stride=(2, 2)))), ["E0318"]),
            (lambda: single(shaped((4, 8, 8), (4, 8, 4), replace(PLAIN, stride=(1, 2)))), ["E0318"]),
        ),
    ),
    Row(
        section="6.1",
        number=6,
        limit="groups 1",
        rules=("note_groups",),
        legal=(lambda: single(shaped((4, 8, 8), (4, 8, 8), replace(PLAIN, groups=2))),),
        reason="groups run as a dense convolution with zeros, with a notice of the cost (section 4.8)",
    ),
    Row(
        section="6.1",
        number=7,
        limit="Conv1d kernel 1 to 9",
        rules=("check_conv1d",),
        legal=(lambda: single(conv1d(kernel=1)), lambda: single(conv1d(kernel=9))),
        illegal=((lambda: single(conv1d(kernel=10)), ["E0320"]),),
    ),
    Row(
        section="6.1",
        number=8,
        limit="dilation: (k - 1) * d below 9",
        rules=(check_conv1d_dilation.__name__,),
        legal=(
            lambda: single(conv1d(kernel=5, dilation=2)),
            lambda: single(conv1d(kernel=9)),
            lambda: single(conv1d(kernel=2, dilation=8)),
        ),
        illegal=(
            (lambda: single(conv1d(kernel=4, dilation=3)), ["E0321"]),
            (lambda: single(conv1d(kernel=6, dilation=2)), ["E0321"]),
        ),
    ),
    Row(
        section="6.1",
        number=8,
        limit="dilation: more than one tap",
        rules=(check_conv1d_dilation.__name__,),
        legal=(lambda: single(conv1d(kernel=1)),),
        illegal=((lambda: single(conv1d(kernel=1, dilation=2)), ["E0321"]),),
    ),
    Row(
        section="6.1",
        number=8,
        limit="dilation: rows of up to 1023 samples",
        rules=(check_conv1d_dilation.__name__,),
        legal=(lambda: single(conv1d(length=1023, kernel=2, dilation=1022)),),
        reason="1-D data has at most 1023 samples, of which two taps are at most 1022 apart",
    ),
    Row(
        section="6.1",
        number=8,
        limit="dilation in rows: no pooling, padding, operands, streaming",
        rules=(check_conv1d_dilation.__name__,),
        legal=(lambda: single(conv1d(kernel=3, dilation=5)), lambda: single(conv1d(kernel=2, dilation=9))),
        illegal=(
            (lambda: single(conv1d(kernel=3, dilation=5, pad=1)), ["E0322"]),
            (
                lambda: single(
                    conv1d(kernel=3, dilation=5, pool=PoolSpec(kind=Pool.MAX, window=(2, 1), stride=(2, 1)))
                ),
                ["E0322"],
            ),
            (lambda: single(conv1d(kernel=3, dilation=5, **TWICE)), ["E0322", "E0331"]),
            (lambda: single(conv1d(kernel=3, dilation=5), streaming=True, fifo=True), ["E0322"]),
        ),
    ),
    Row(
        section="6.1",
        number=8,
        limit="dilation in rows: whole rows from the FIFO",
        rules=(check_conv1d_dilation.__name__,),
        legal=(
            lambda: single(conv1d(length=100, kernel=3, dilation=10), fifo=True),
            lambda: single(conv1d(length=101, kernel=3, dilation=10)),
        ),
        illegal=((lambda: single(conv1d(length=101, kernel=3, dilation=10), fifo=True), ["E0322"]),),
    ),
    Row(
        section="6.1",
        number=8,
        limit="dilation in rows: room before out_offset",
        rules=(check_conv1d_dilation.__name__,),
        legal=(
            lambda: single(conv1d(kernel=3, dilation=5), in_offset=0x4000, out_offset=20),
            lambda: single(conv1d(kernel=2, dilation=9), in_offset=0x4000, out_offset=0),
        ),
        illegal=((lambda: single(conv1d(kernel=3, dilation=5), in_offset=0x4000, out_offset=16), ["E0412"]),),
    ),
    Row(
        section="6.1",
        number=9,
        limit="ConvTranspose2d 3x3, stride 2, output_pad 1, no pooling",
        rules=("check_transposed",),
        legal=(lambda: single(transposed()),),
        illegal=(
            (lambda: single(transposed(kernel=(1, 1), padding=(0, 0))), ["E0323"]),
            (lambda: single(transposed(stride=(1, 1))), ["E0323"]),
            (lambda: single(transposed(stride=(3, 3))), ["E0323"]),
            (lambda: single(transposed(output_padding=0)), ["E0323"]),
            (lambda: single(replace(transposed(), operand_shape=TensorShape(4, 8, 8), pool=MAX_2X2)), ["E0323"]),
        ),
    ),
    Row(
        section="6.1",
        number=9,
        limit="ConvTranspose2d pad 0 to 2",
        rules=("check_pad",),
        legal=(lambda: single(transposed(padding=(0, 0))), lambda: single(transposed(padding=(2, 2)))),
        illegal=((lambda: single(_transposed_by_3()), ["E0324"]),),
    ),
    Row(
        section="6.1",
        number=10,
        limit="pad 0 to 2",
        rules=("check_pad",),
        legal=(lambda: single(conv(0, (4, 8, 8), 4, pad=2)), lambda: single(conv1d(kernel=9, pad=2))),
        illegal=(
            (lambda: single(conv(0, (4, 8, 8), 4, pad=3)), ["E0324"]),
            (lambda: single(conv1d(kernel=9, pad=3)), ["E0324"]),
        ),
    ),
    Row(
        section="6.1",
        number=10,
        limit="pad less than the kernel",
        rules=("check_pad",),
        legal=(lambda: single(conv(0, (4, 8, 8), 4, kernel=1, pad=0)), lambda: single(conv1d(kernel=2, pad=1))),
        illegal=(
            (lambda: single(conv(0, (4, 8, 8), 4, kernel=1, pad=1)), ["E0324"]),
            (lambda: single(conv1d(kernel=2, pad=2)), ["E0324"]),
        ),
    ),
    Row(
        section="6.1",
        number=10,
        limit="no pad of a pass layer",
        legal=(read("op: none, pad: 0", weights=None),),
        illegal=((read("op: none, pad: 1", weights=None), ["E0238"]),),
    ),
    Row(
        section="6.1",
        number=11,
        limit="pooling window 1 to 16",
        rules=("check_pool_window",),
        legal=(
            lambda: single(pooled(16)),
            lambda: single(_pool_of((16, 1), (1, 1))),
            lambda: single(_pool_of((1, 16), (1, 1))),
        ),
        illegal=(
            (lambda: single(pooled(17)), ["E0325"]),
            (lambda: single(_pool_of((1, 17), (1, 1))), ["E0325"]),
            (read("op: conv2d, max_pool: 0"), ["E0205"]),
        ),
    ),
    Row(
        section="6.1",
        number=11,
        limit="pooling dilation 1",
        rules=("check_pool_window",),
        legal=(read("op: conv2d, max_pool: 2, pool_stride: 2, pool_dilation: 1"),),
        illegal=(
            (read("op: conv2d, max_pool: 2, pool_stride: 2, pool_dilation: 2"), ["E0206"]),
            (
                lambda: single(
                    conv(0, (4, 8, 8), 4, pool=PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(1, 1), dilation=(2, 2)))
                ),
                ["E0325"],
            ),
        ),
    ),
    Row(
        section="6.1",
        number=11,
        limit="pooling stride 1 to 16, equal",
        rules=("check_pool_stride",),
        legal=(lambda: single(pooled(2, 16)), lambda: single(_pool_of((1, 1), (16, 16)))),
        illegal=(
            (lambda: single(pooled(2, 17, size=40)), ["E0326"]),
            (lambda: single(_pool_of((2, 2), (2, 1))), ["E0326"]),
        ),
    ),
    Row(
        section="6.1",
        number=12,
        limit="stride 1 beside pooling",
        rules=("check_conv_stride",),
        legal=(lambda: single(_pool_of((2, 2), (2, 2))),),
        illegal=(
            (lambda: single(shaped((4, 8, 8), (4, 2, 2), replace(PLAIN, stride=(2, 2)), pool=MAX_2X2)), ["E0318"]),
        ),
    ),
    Row(
        section="6.1",
        number=13,
        limit="total shift -15 to 15",
        rules=("check_output_shift",),
        legal=(
            lambda: single(conv(0, (4, 8, 8), 4, output_shift=-15)),
            lambda: single(conv(0, (4, 8, 8), 4, output_shift=15)),
        ),
        illegal=(
            (lambda: single(conv(0, (4, 8, 8), 4, output_shift=-16)), ["E0327"]),
            (lambda: single(conv(0, (4, 8, 8), 4, output_shift=16)), ["E0327"]),
        ),
    ),
    Row(
        section="6.1",
        number=13,
        limit="no shift of a pass layer",
        rules=("check_output_shift",),
        legal=(lambda: single(passthrough(0, (4, 8, 8))),),
        illegal=((lambda: single(passthrough(0, (4, 8, 8), output_shift=1)), ["E0327"]),),
    ),
    Row(
        section="6.1",
        number=14,
        limit="activation of convolutions with 8-bit output",
        rules=("check_activation",),
        legal=(
            lambda: single(conv(0, (4, 8, 8), 4, activation=Activation.ABS)),
            lambda: single(conv(0, (4, 8, 8), 4, **WIDE)),
        ),
        illegal=(
            (lambda: single(conv(0, (4, 8, 8), 4, output_bits=32)), ["E0328"]),
            (lambda: single(passthrough(0, (4, 8, 8), activation=Activation.RELU)), ["E0328"]),
        ),
    ),
    Row(
        section="6.1",
        number=15,
        limit="wide output of the last convolution",
        rules=("check_output_width",),
        legal=(lambda: single(conv(0, (4, 8, 8), 4, **WIDE)),),
        illegal=(
            (lambda: single(passthrough(0, (4, 8, 8), output_bits=32)), ["E0329"]),
            (
                lambda: codes(
                    network_of(conv(0, (4, 8, 8), 4, **WIDE), conv(1, (4, 8, 8), 4)),
                    place(0xF, 0xF, 0x1000),
                    place(0xF, 0xF, 0x4000, 0x1000),
                ),
                ["E0329"],
            ),
            (
                lambda: codes(
                    network_of(conv(0, (4, 8, 8), 4, **WIDE), conv(1, (4, 8, 8), 4, inputs=(-1,)), outputs=(0, 1)),
                    place(0xF, 0xF, 0x1000),
                    place(0xF, 0xF, 0x4000),
                ),
                ["W0305"],
            ),
        ),
    ),
    Row(
        section="6.1",
        number=16,
        limit="2 to 16 operands",
        legal=(lambda: single(added(4, 2)), lambda: single(added(4, 16))),
        illegal=(
            (read("op: add, operands: 17, in_sequences: -1", weights=None), ["E0205"]),
            (read("op: add, in_sequences: -1", weights=None), ["E0232"]),
        ),
    ),
    Row(
        section="6.1",
        number=16,
        limit="not with Conv1d",
        rules=("check_eltwise",),
        legal=(lambda: single(wide((4, 4, 4), 4, **TWICE)),),
        illegal=((lambda: single(conv1d(**TWICE)), ["E0331"]),),
    ),
    Row(
        section="6.1",
        number=16,
        limit="operands of equal shape",
        legal=(read("op: add, in_sequences: [-1, -1]", weights=None),),
        illegal=((read("op: conv2d, pad: 0", more="- {op: add, in_sequences: [0, -1]}\n"), ["E0233"]),),
    ),
    Row(
        section="6.1",
        number=16,
        limit="above 64 channels fused for 2 operands in 2 passes only",
        rules=("check_eltwise",),
        legal=(
            lambda: single(wide((128, 4, 4), 4, **TWICE)),
            lambda: single(added(128, 3)),
            lambda: single(added(132, 2)),
        ),
        illegal=(
            (lambda: single(wide((128, 4, 4), 4, **{**TWICE, "inputs": (-1,) * 3})), ["E0333"]),
            (lambda: single(wide((132, 4, 4), 4, **TWICE)), ["E0333"]),
        ),
    ),
    Row(
        section="6.1",
        number=17,
        limit="pool_first: false with 2 operands and pooling",
        rules=("check_pool_first",),
        legal=(lambda: single(added(4, 2, pool_first=False, **POOLED_PASS)),),
        illegal=(
            (lambda: single(added(4, 3, pool_first=False, **POOLED_PASS)), ["E0334"]),
            (lambda: single(added(4, 2, pool_first=False)), ["E0334"]),
        ),
    ),
    Row(
        section="6.1",
        number=18,
        limit="pass pooling above 64 channels to one pixel",
        rules=("check_pass_pooling",),
        legal=(
            lambda: single(passthrough(0, (65, 2, 2), pool=MAX_2X2, out_shape=TensorShape(65, 1, 1))),
            lambda: single(passthrough(0, (64, 4, 4), pool=MAX_2X2, out_shape=TensorShape(64, 2, 2))),
        ),
        illegal=(
            (lambda: single(passthrough(0, (65, 2, 4), pool=MAX_2X2, out_shape=TensorShape(65, 1, 2))), ["E0335"]),
        ),
    ),
    Row(
        section="6.1",
        number=19,
        limit="flatten 256 pixels",
        rules=("check_flatten",),
        legal=(lambda: single(linear(0, (4, 16, 16), 2)), lambda: single(linear(0, (4, 256, 1), 2))),
        illegal=((lambda: single(linear(0, (4, 257, 1), 2)), ["E0336"]),),
    ),
    Row(
        section="6.1",
        number=19,
        limit="flatten 16384 features",
        rules=("check_flatten",),
        legal=(lambda: single(linear(0, (1024, 4, 4), 1, weights=None)),),
        illegal=((lambda: single(linear(0, (1024, 17, 1), 1, weights=None)), ["E0336"]),),
    ),
    Row(
        section="6.1",
        number=19,
        limit="flatten without pooling and streaming",
        rules=("check_flatten",),
        legal=(lambda: single(linear(0, (4, 4, 4), 2)),),
        illegal=(
            (lambda: single(linear(0, (4, 2, 2), 2, operand_shape=TensorShape(4, 4, 4), pool=MAX_2X2)), ["E0337"]),
            (lambda: single(linear(0, (4, 4, 4), 2), streaming=True, fifo=True), ["E0337", "E0435"]),
        ),
    ),
    Row(
        section="6.1",
        number=20,
        limit="weights fit their width",
        legal=(read("op: conv2d, quantization: 4", value=7), read("op: conv2d, quantization: 1", value=-1)),
        illegal=(
            (read("op: conv2d, quantization: 4", value=8), ["E0553"]),
            (read("op: conv2d, quantization: 1", value=1), ["E0553"]),
        ),
    ),
    Row(
        section="6.1",
        number=20,
        limit="widths 1, 2, 4, 8",
        rules=("check_weight_bits",),
        legal=tuple(lambda bits=bits: single(wide((4, 4, 4), 4, weight_bits=bits)) for bits in (1, 2, 4, 8)),  # type: ignore[misc]
        illegal=(
            (lambda: single(wide((4, 4, 4), 4, weight_bits=3)), ["E0338"]),
            (read("op: conv2d, quantization: 3"), ["E0205"]),
        ),
    ),
    Row(
        section="6.1",
        number=20,
        limit="nothing of the MAX78002",
        legal=(file_key("bypass: false"), file_key("in_skip: 0")),
        illegal=tuple(
            (file_key(key), ["E0206"])
            for key in ("bypass: true", "calcx4: true", "readahead: true", "in_skip: 1", "snoop_sequence: 1")
        ),
    ),
    Row(
        section="6.1",
        number=21,
        limit="samples are integers -128 to 127, (C, H, W) or (C, L)",
        legal=(lambda: samples([[[-128]], [[127]]]), lambda: samples([[0, 1], [2, 3]])),
        illegal=(
            (lambda: samples([[[-129]]]), ["E0642"]),
            (lambda: samples([[[128]]]), ["E0642"]),
            (lambda: samples([[[0.5]]]), ["E0642"]),
            (lambda: samples([1, 2]), ["E0642"]),
        ),
    ),
)


def _transposed_by_3() -> Any:
    spec = ConvSpec(kernel=(3, 3), padding=(3, 3), stride=(2, 2), output_padding=1)
    return shaped((4, 6, 6), (4, 8, 8), spec, Op.CONV_TRANSPOSE2D)
