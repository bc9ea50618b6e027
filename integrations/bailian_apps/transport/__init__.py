"""The only room that knows the SDK and sockets.

`sdk` builds and runs requests with the SDK's own machinery; `http` and `async_http` hand it
connections that do not resend, redirect or share anything between keys; `answer` says what an HTTP
answer means and how long to wait for it; `body` gives what one read brought, and `sse` splits it,
in linear time. `places` limits how many calls are under way.
"""
