"""Documents that are written by code, from committed tables: `python -m docs.write.results` and its like."""
