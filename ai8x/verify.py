"""The outcome of holding one executor against the reference: equal, different, or skipped with the reason.

`verify_max78000.py` and `verify_k210.py` do the comparing, each for its chip. Start at `Verdict`.

Source: docs/design.md "Verification record".
"""

from __future__ import annotations

from dataclasses import dataclass

EQUAL = "equal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a comparison with the reference found.

    Args:
        witness: ``reference``, ``simulator``, ``firmware``, ``kmodel`` or ``kpu_firmware``.
        difference: the first difference, in words; empty where there is none.
        skipped: why nothing was compared; empty where something was.
    """

    witness: str
    difference: str = ""
    skipped: str = ""

    @property
    def is_different(self) -> bool:
        """A difference was found: the command ends with exit status 3."""
        return bool(self.difference)

    def __str__(self) -> str:
        if self.skipped:
            return f"skipped: {self.skipped}"
        return f"different: {self.difference}" if self.difference else EQUAL
