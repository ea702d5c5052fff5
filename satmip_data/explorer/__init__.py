"""A page on which a shard directory is explored: charts of all its rows that filter each other, and chips."""
