"""Play in the browser: python -m worldmodels.web. The page is docs/play/, which also runs without a server."""
