"""Pictures to vectors: the embedder, and the models that are known to work."""
