#!/usr/bin/env python3
"""Trained checkpoint to the integers of the accelerator; see ``python quantize.py --help``."""

import sys

from ai8x.cli.quantize import main

if __name__ == "__main__":
    sys.exit(main())
