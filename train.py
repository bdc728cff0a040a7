"""Trains a network; see ``python train.py --help``."""

import sys

from ai8x.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
