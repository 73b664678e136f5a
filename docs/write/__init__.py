"""Documents that code writes from committed tables, for example `python -m docs.write.results`."""
