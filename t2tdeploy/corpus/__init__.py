"""Translation of whole corpora: Parquet in, Parquet out, in blocks that are done once."""
