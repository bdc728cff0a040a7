"""Places of tensors in maps: whatever plan is found, the KPU's convolution on the framed map gives the wanted one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.k210.frames import AxisWork, Frame, Margins, fit_margins, plan_axis, plan_frame, side_by_side
from ai8x.k210.steps import KpuMap, MapView

GARBAGE = 1000


@st.composite
def works(draw):
    length, kernel, pad = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    convolved = length + 2 * pad - kernel + 1
    step = draw(st.sampled_from((1, 2, 4)))
    reach = draw(st.sampled_from((1, step)))
    count = (convolved - reach) // step + 1
    return AxisWork(length=length, kernel=kernel, pad=pad, step=step, reach=reach, count=max(count, 1))


def wanted(values, kernel, work):
    padded = np.pad(values, work.pad + 8)
    results = [sum(kernel[i] * padded[8 + o + i] for i in range(work.kernel)) for o in range(work.convolved)]
    return [sum(results[work.step * i : work.step * i + work.reach]) for i in range(work.count)]


def as_the_kpu_does(line, kernel, work, plan, taps):
    weights = np.zeros(taps)
    weights[plan.tap : plan.tap + work.kernel] = kernel
    padded = np.pad(line, taps // 2)
    results = [float(weights @ padded[i : i + taps]) for i in range(len(line))]
    pooled = [sum(results[i * work.step : i * work.step + work.reach]) for i in range(len(line) // work.step)]
    return pooled[plan.start : plan.start + work.count]


@given(works(), st.integers(0, 4), st.integers(0, 6), st.booleans(), st.sampled_from((1, 3)))
def test_every_plan_gives_the_wanted_convolution(work, before, behind, clean, taps):
    convolved = work.length + 2 * work.pad - work.kernel + 1
    if work.kernel > taps or convolved < work.convolved:
        return
    random = np.random.default_rng(work.length)
    values, kernel = random.integers(1, 9, work.length).astype(float), random.integers(1, 9, work.kernel).astype(float)
    line = np.full(before + work.length + behind, 0.0 if clean else GARBAGE)
    line[before : before + work.length] = values
    plan = plan_axis(work, start=before, size=len(line), clean=clean, taps=taps)
    if plan is not None:
        assert as_the_kpu_does(line, kernel, work, plan, taps) == wanted(values, kernel, work)


@given(works(), works())
def test_fitted_margins_allow_the_work(rows, columns):
    margins = fit_margins(rows, columns)
    assert margins is not None
    height, width = margins.top + rows.length + margins.bottom, margins.left + columns.length + margins.right
    view = MapView(parts=(KpuMap(name="m", channels=1, height=height, width=width),))
    frame = Frame(view=view, top=margins.top, left=margins.left, height=rows.length, width=columns.length, clean=True)
    assert plan_frame(frame, rows, columns) is not None
    assert min(height // rows.step, width // columns.step) >= 4


@pytest.mark.parametrize(("pad", "margins"), [(0, 0), (1, 0), (2, 1)])
def test_a_3x3_kernel_needs_a_ring_only_for_pad_2(pad, margins):
    work = AxisWork(length=8, kernel=3, pad=pad, count=6 + 2 * pad)
    assert fit_margins(work, work) == Margins(top=margins, bottom=margins, left=margins, right=margins)


def test_cells_beside_the_tensor_must_be_zero_where_they_are_read():
    work = AxisWork(length=6, kernel=3, pad=1, count=6)
    assert plan_axis(work, start=1, size=8, clean=False, taps=3) is None
    assert plan_axis(work, start=1, size=8, clean=True, taps=3) is not None


def test_a_map_must_keep_four_cells_behind_its_pooling():
    work = AxisWork(length=6, step=2, reach=2, count=3)
    assert plan_axis(work, start=0, size=6, clean=True, taps=1) is None
    assert plan_axis(work, start=0, size=8, clean=True, taps=1) is not None


def test_frames_side_by_side_are_clean_only_together():
    maps = [KpuMap(name=name, channels=3, height=8, width=8) for name in "ab"]
    frames = [Frame(view=MapView(parts=(m,)), height=7, width=7, clean=m.name == "a") for m in maps]
    both = side_by_side(frames)
    assert (both.view.names, both.clean, both.view.channels) == (("a", "b"), False, 7)
