"""How data files were made: run by an author, never by a user."""
