"""Import: foreign traces become an ordinary run folder."""
