"""The command lines: parse arguments, call the library, map errors to exit statuses. One module per command."""
