"""The HTTP side: the completion endpoint, its checks, its responses and the admin endpoints."""
