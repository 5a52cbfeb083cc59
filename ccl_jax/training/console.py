"""Progress lines."""

import sys

import jax


def say(message: str, end: str = '\n') -> None:
    """Prints to standard error, on process 0 alone."""
    if jax.process_index() == 0:
        print(message, end=end, file=sys.stderr, flush=True)
