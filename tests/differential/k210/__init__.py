"""Random networks on the K210: reference = KPU simulator = compiled runner."""
