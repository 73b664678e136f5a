"""A laboratory for out-of-context (implicit meta-) learning.

Importing the package is cheap and has no effect; import the module you need, for example
`from mechocl import internalization, models, runs`.
"""

__version__ = "0.1.0"
