"""What is computed, independent of any chip: description, parameters, representation, golden executor."""
