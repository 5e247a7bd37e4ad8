"""Errors a user can cause, and the outcomes a measure may declare instead of a number."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class AcutanceWarning(UserWarning):
    """Something a user should know, though the value is still what its definition says."""


def warn(sentence: str) -> None:
    """Tell something that was left out, where the caller has nobody else to tell it to."""
    warnings.warn(sentence, AcutanceWarning, stacklevel=3)


class UserError(ValueError):
    """A mistake in a config, a file or an argument, told in one sentence.

    Args:
        message: what is wrong and where (file, YAML path, parameter).
        hint: what to do about it; printed on a line of its own by the command line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class Excluded(UserError):
    """Raised by a pool's ``load`` for a model that is there but not to be compared: left out with this reason.

    It is not a failure: its training did not get as far as it should have, say.
    """


class NotInParts(UserError):
    """The value exists, but not from passes over parts of the batch, which the surface is set to make.

    Cells whose evaluation raises it are recorded as failed with this reason; passes over all examples give them values.
    """


class Misfit(UserError):
    """Raised where a model does not take the points it is given: a mistake in the study, not of one measure."""


class NoRoom(UserError):
    """Raised for a model that the memory that is free does not hold."""


class Unsupported(Exception):
    """Raised by a measure that is not defined on the given surface; recorded as a row, not as a failure."""


class Terminated(SystemExit):
    """Raised wherever the program is when a signal tells it to end; its exit status is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


ENDINGS = (KeyboardInterrupt, Terminated)  # no fault of a plugin, wherever they are raised; all else that it raises is


@contextmanager
def caught() -> Iterator[list[BaseException]]:
    """Keep what a plugin raises inside this block, ``sys.exit()`` too, in the list that it gives: one error or none.

    Raises:
        KeyboardInterrupt, Terminated: when the program is to end.
    """
    errors: list[BaseException] = []
    try:
        yield errors
    except ENDINGS:
        raise
    except BaseException as error:
        errors.append(error)


@contextmanager
def as_errors(who: str) -> Iterator[None]:
    """Make all that a plugin raises inside this block an ``Exception``: ``sys.exit()`` would end the whole program.

    Args:
        who: may raise it, as ``measure 'foo'``.

    Raises:
        RuntimeError: in place of what is no ``Exception``.
        KeyboardInterrupt, Terminated: when the program is to end.
    """
    try:
        yield
    except (Exception, *ENDINGS):
        raise
    except SystemExit as error:
        raise RuntimeError(f"{who} called sys.exit({error.code})") from error
    except BaseException as error:
        raise RuntimeError(f"{who} raised {type(error).__name__}: {error}".removesuffix(": ")) from error


def in_words(error: BaseException) -> str:
    """Return in one line what was raised; a user's mistake is a sentence already."""
    if isinstance(error, UserError):
        return error.message
    return unfit_torchvision(error) or " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def unfit_torchvision(error: BaseException) -> str:
    """Return in one sentence that torchvision is of another build than torch, where an error, or its cause, says so.

    Whoever imports torchvision raises it then: timm, transformers.
    """
    seen: BaseException | None = error
    while seen is not None:
        if "torchvision::nms" in str(seen):
            return "torchvision was built for another torch than the installed one"
        seen = seen.__cause__ or seen.__context__
    return ""


def refuse_unfit_torchvision(error: BaseException) -> None:
    """Raise a UserError where an error is of such an installation: nothing is wrong with the model then."""
    if unfit := unfit_torchvision(error):
        raise UserError(unfit, "'acutance doctor' says how to install both") from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that the memory does not suffice, which says nothing about a model."""
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or any(
        words in text for words in ("out of memory", "not enough memory", "allocate memory")
    )


def some(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def did_you_mean(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``"did you mean 'x'?"`` for a near miss, else the list of what is known.

    Args:
        name: what was written.
        known: what could have been meant.
    """
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return "none is installed"
    more = f" and {len(known) - 50} more" if len(known) > 50 else ""
    return "known: " + ", ".join(sorted(known)[:50]) + more


class Untracked(Unsupported):
    """Derivatives would be wrong in some parameters: automatic differentiation does not see what they do."""
