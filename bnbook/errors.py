"""The errors that a reader is meant to read."""


class BnbookError(Exception):
    """An error whose text is written for the reader.

    It says what was expected, what was found, what was left untouched and what to try.
    The command line prints it without a traceback and exits with status 2.
    """
