"""The HTTP service of a model, and its client. Read app.py first. Needs the extra `web`."""
