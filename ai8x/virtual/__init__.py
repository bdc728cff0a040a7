"""Boards without a board: real machine code against our accelerator simulators.

An optional part of the package (``pip install 'ai8x[virtual]'``). Start at `ai8x.virtual.max78000.run_firmware`.
"""
