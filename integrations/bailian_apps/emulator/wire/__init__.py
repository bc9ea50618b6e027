"""The cloud's wire format: frames, stream modes, deltas and cumulative streams.

Nothing here knows of apps, sessions, HTTP or the recorder. It is written from recorded answers
(tests/recordings), not from the client that the emulator is there to test.
"""
