"""The only room that knows the SDK and sockets.

`sdk` builds and runs requests with the SDK's own machinery, `http` hands it connections that do not
resend, redirect or share anything between keys, and `sse` splits the stream in linear time.
"""
