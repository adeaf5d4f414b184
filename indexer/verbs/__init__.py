"""What the product does: one verb, one file, each a function over the rooms below."""
