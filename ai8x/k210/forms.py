"""Which forms a layer may take beyond the exact ones that every runner knows. Start at `Forms`.

Source: spec/k210-kmodel.md section 13.2.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """What the user allows.

    Args:
        own_layers: layer types that only the generated stand-alone runner knows; they are exact.
        inexact: where nothing else exists, a layer whose result may be off by a stated bound.
    """

    own_layers: bool = False
    inexact: bool = False


EXACT_FORMS = Forms()
"""Bit-identical results on every runner; the default."""
