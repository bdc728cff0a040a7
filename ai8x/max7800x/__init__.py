"""The MAX78000: from a network to registers and a C project, and the simulator that checks both."""
