"""The command line: parse, call, print. One file a group of commands."""
