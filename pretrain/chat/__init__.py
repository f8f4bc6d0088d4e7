"""Talking about videos: a trained chat model that answers, a conversation in the terminal, and a server."""
