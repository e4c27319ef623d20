"""Ctrl-C in a process that is ending already."""

import signal
import sys


def ignore_interrupts() -> None:
    """Ignore Ctrl-C from here on.

    Of one that arrives while its handler is removed Python would print a traceback: its number was noted, and when
    Python comes to it nothing is left to call ("ignored due to race condition").

    Raises:
        ValueError: this is not the main thread, which has the signals.
    """
    hook = sys.unraisablehook

    def tell(unraisable: "sys.UnraisableHookArgs") -> None:
        if not str(unraisable.exc_value).startswith(f"Signal {signal.SIGINT.value} ignored"):
            hook(unraisable)

    sys.unraisablehook = tell
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        sys.unraisablehook = hook
