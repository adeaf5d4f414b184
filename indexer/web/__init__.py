"""A web page and an HTTP API over a catalog, for reading: nothing that comes over HTTP changes anything."""
