"""What all tests need."""

import signal

# Shells start background jobs with Ctrl-C ignored, and what they start inherits that: tests of
# Ctrl-C need it back.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
