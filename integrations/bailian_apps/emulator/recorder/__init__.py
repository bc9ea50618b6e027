"""The recording proxy: relays calls to the real API and writes recordings without secrets."""
