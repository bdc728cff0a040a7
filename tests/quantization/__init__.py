"""Tests of what quantize.py does with data."""
