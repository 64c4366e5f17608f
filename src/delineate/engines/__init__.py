"""Where workers live. The database says what is to be done; an engine says where it runs."""
