"""The errors that a user can mend."""


class MechoclError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to do, in one line."""
