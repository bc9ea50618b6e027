"""The Responses API for apps: answers at once, in a stream, or in the background."""
