"""A client of OpenAI-compatible chat endpoints, which loses no paid answer."""
