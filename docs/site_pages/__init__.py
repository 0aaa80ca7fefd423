"""What the site has beside its pages in Markdown."""
