"""Training runs: data sets, the loop, run folders, evaluation; needs torch. Start at `ai8x.training.session`."""
