"""Training-time layers that compute what the chip computes; needs torch. Start at `ai8x.nn.modules`."""
