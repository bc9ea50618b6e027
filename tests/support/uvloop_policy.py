"""A plugin of pytest: every event loop of the tests is uvloop's."""

from __future__ import annotations

import asyncio

import uvloop

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
