"""The one exception type for everything a user can get wrong."""


class UserError(Exception):
    """A mistake in the input that the user can mend.

    The message is one clear sentence that names the place and the mend, and
    never quotes clinical text (ids, paths and offsets only). The command line
    prints it without a traceback and exits with code 2.
    """
