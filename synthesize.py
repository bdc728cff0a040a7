#!/usr/bin/env python3
"""Network description and checkpoint to verified firmware; see ``python synthesize.py --help``."""

import os
import sys

from ai8x.cli.synthesize import main

if __name__ == "__main__":
    # The matrix products are small: handing them to threads takes longer than they do (benchmarks/synthesis.py). numpy
    # reads this when it is imported, which happens in main.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
