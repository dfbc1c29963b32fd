"""Downloads files over HTTP and unpacks archives safely; used for data sets and weights."""
