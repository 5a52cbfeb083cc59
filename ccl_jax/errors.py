"""The exceptions that end in a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake in the input that the user can mend.

    The message is one clear sentence that names the place and the mend, and
    never quotes clinical text (ids, paths and offsets only). The command line
    prints it without a traceback and exits with code 2.
    """


class Interrupted(Exception):
    """The run was asked to end (SIGTERM) and has saved what it had.

    The message says how far it came. The command line prints it and exits with code 143 = 128 + 15,
    what a shell reports of a process that SIGTERM ended; so a cluster that starts it again
    knows it from a mistake of the user, code 2.
    """
