"""Code that several editors share."""
