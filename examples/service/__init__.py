"""A chat service: one app, many users, several workers. See docs/en/serving.md."""
