"""Random networks over the whole scope of the MAX78000: reference = simulator = compiled firmware, by one seed."""
