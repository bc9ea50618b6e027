"""The page of the emulator and of the recorder: what they serve, and what they were asked."""
