"""One process that claims tasks and settles them."""
