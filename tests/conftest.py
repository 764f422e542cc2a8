"""Fixtures that every test may ask for."""

import logging
import signal

import pytest

from tests.helpers.browser import browser, open_page
from trainer.log import _Console

__all__ = ["browser", "open_page"]


@pytest.fixture(autouse=True)
def quiet_root():
    """A test that turns the console on in this process must not add lines to what the next one hears."""
    root = logging.getLogger()
    for handler in [
        handler for handler in root.handlers if isinstance(handler, _Console)
    ]:
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def same_signal_handlers():
    """A program that Ctrl-C has ended ignores a second one; in this process the next test must hear it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
