"""The one error of everything that reads images."""


class UnreadableError(Exception):
    """A file that no picture can be read from; the text says why, without the file's name."""
