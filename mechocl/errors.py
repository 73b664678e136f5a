"""The errors that the command line shows as one line."""


class MechoclError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to do, in one line."""


class Fault(RuntimeError):
    """Something failed that the user did not do, such as a killed process; one line, too."""
