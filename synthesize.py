#!/usr/bin/env python3
"""Network description and checkpoint to verified firmware; see ``python synthesize.py --help``."""

import sys

from ai8x.cli.synthesize import main

if __name__ == "__main__":
    sys.exit(main())
