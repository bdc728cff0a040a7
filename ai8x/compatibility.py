"""The vendor's process-wide setting: what `ai8x.set_device` set, for scripts that migrate.

The one module that holds state (docs/design.md "Levels"). It is read only when a layer is constructed;
after that every layer carries its own device and mode. New code passes ``device=`` and calls
`ai8x.nn.qat.switch_to_qat` or `ai8x.nn.base.set_integer_mode` instead.

Source: spec/ai8x-training.md section 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from ai8x.errors import user_error

_NAMES = {"85": "MAX78000", "78000": "MAX78000", "87": "MAX78002", "78002": "MAX78002"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """Defaults that layers take at construction.

    Args:
        device: "MAX78000", "MAX78002" or None where no device was chosen.
        simulate: layers are built for integer evaluation.
        round_avg: average pooling rounds instead of truncating.
    """

    device: str | None = None
    simulate: bool = False
    round_avg: bool = False


_settings = DeviceSettings()


def device_name(name: str | int) -> str:
    """The full name of a chip: 85, "ai85", "max78000" and the like give "MAX78000".

    Raises:
        UserError: E0371 for any other name; the test chip (84) is not supported.

    Source:
        spec/ai8x-training.md section 1.
    """
    digits = str(name).upper().removeprefix("MAX").removeprefix("AI")
    if digits not in _NAMES:
        raise user_error("E0371", f"unknown device '{name}'", found=str(name), allowed="MAX78000 (85) or MAX78002 (87)",
                         help="write MAX78000")
    return _NAMES[digits]


def set_device(device: str | int, simulate: bool = False, round_avg: bool = False, verbose: bool = True) -> None:
    """Set the defaults that layers take at construction.

    Args:
        device: 85, 87 or a name.
        simulate: build layers for integer evaluation (the vendor's option ``-8``).
        round_avg: average pooling rounds halves away from zero instead of truncating.
        verbose: accepted for the vendor's signature; nothing is printed.

    Raises:
        UserError: E0371 for an unknown device.
    """
    global _settings
    del verbose
    _settings = DeviceSettings(device=device_name(device), simulate=bool(simulate), round_avg=bool(round_avg))


def reset_device() -> None:
    """Forget what `set_device` set."""
    global _settings
    _settings = DeviceSettings()


def current_settings() -> DeviceSettings:
    """The defaults in force."""
    return _settings
