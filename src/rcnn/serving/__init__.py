"""The HTTP service of a model, and its client. Read app.py first; needs the extra `web`."""
