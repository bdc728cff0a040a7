"""Hostile and damaged inputs, each with the code with which it is refused."""
