"""Problems: where data comes from, how it is stored and batched."""
