"""What an app call means.

Pure: no network, no framework, no SDK. Read the modules in the order of a call:
`settings` and `request` (what is sent), `history` (which turns, in which session), `events`,
`decoder` and `result` (what came back), `errors` and `retry` (what went wrong, and what may be
sent again).
"""
