"""Who is near whom: the neighbour index (a cache of the stored vectors), and pairs and groups."""
