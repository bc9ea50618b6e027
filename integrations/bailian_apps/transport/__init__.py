"""The only package that knows the SDK and sockets.

`request_builder` builds requests with the SDK's own machinery; `sync_http` and `async_http` send
them and read the frames of the answer, over the connections of `sync_pool` and `async_pool`;
`name_lookup` finds addresses; `sse` and `http_answer` decide what the bytes mean, and `timeouts`
how long a call waits. `private_names` lists what no library promises.
"""
