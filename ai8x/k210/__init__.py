"""The Kendryte K210: from a network to a kmodel, its C runner, and the KPU simulator that checks both."""
