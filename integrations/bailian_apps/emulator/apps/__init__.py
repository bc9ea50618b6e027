"""What answers behind an app id: recordings, scenarios, rules and Python functions.

An app yields the frames of one answer as deltas. It must not know of HTTP or of how the frames are
encoded for the client.
"""
