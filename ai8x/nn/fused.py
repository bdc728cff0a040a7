"""How a fused class fixes some arguments of its operation.

A class statement such as ``class FusedConv2dReLU(Fused, Conv2d, activation="ReLU")`` is all that the table in
`ai8x.nn.modules` needs; this mixin turns the keywords into constructor arguments.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Fused:
    """Adds the arguments named in the class statement to every construction.

    ``op``, ``pooling`` and ``activation`` are fixed: passing them again is a `TypeError`, as for any argument given
    twice. ``batchnorm`` is a default that the caller may override. ``depthwise=True`` sets groups to the first
    positional argument.

    Raises:
        TypeError: where a fixed argument is passed, or a depthwise class gets in_channels as a keyword.
    """

    fixed: ClassVar[dict[str, str]] = {}
    defaults: ClassVar[dict[str, str]] = {}
    depthwise: ClassVar[bool] = False

    def __init_subclass__(cls, *, op: str | None = None, pooling: str | None = None, activation: str | None = None,
                          batchnorm: str | None = None, depthwise: bool = False) -> None:
        super().__init_subclass__()
        named = {"op": op, "pooling": pooling, "activation": activation}
        cls.fixed = {**cls.fixed, **{name: value for name, value in named.items() if value is not None}}
        if batchnorm is not None:
            cls.defaults = {**cls.defaults, "batchnorm": batchnorm}
        cls.depthwise = cls.depthwise or depthwise

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        arguments = {**self.defaults, **kwargs}
        if self.depthwise:
            if not args:
                raise TypeError(f"{type(self).__name__} needs in_channels as its first positional argument")
            arguments["groups"] = args[0]
        super().__init__(*args, **self.fixed, **arguments)
