"""The simulator's own check of in-place layers hides no real overlap: wherever a word is lost, it stops."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.regions import read_words, written_words

from .test_read_order import difference, hardware, layers_in_place, loses_data


@settings(max_examples=40)
@given(layers_in_place(), st.integers(-90, 20), st.integers(0, 1))
def test_simulator_stops_wherever_a_word_is_lost(layer: HardwareLayer, distance: int, gap: int) -> None:
    network, placement, placed = hardware(layer, distance, gap)
    assume((written_words(placed, MAX78000) & read_words(placed, MAX78000)).any())
    assert ("over its own input" in difference(network, placement)) >= loses_data(placed)
