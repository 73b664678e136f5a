"""The command line: it parses, calls and prints. Each file has one group of commands."""
