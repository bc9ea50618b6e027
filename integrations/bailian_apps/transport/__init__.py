"""The only room that knows the SDK and sockets.

`sdk` builds and runs requests with the SDK's own machinery; `http` and `async_http` hand it
connections that do not resend, redirect or share anything between keys; `answer` says what an HTTP
answer means and how long to wait for it; `sse` splits the stream in linear time.
"""
