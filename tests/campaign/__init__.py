"""Attacks on everything that the command line reads and writes; `make campaign` makes them all."""
