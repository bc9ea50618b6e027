"""A chat service: one app, many users, several workers. See docs/serving.md."""
