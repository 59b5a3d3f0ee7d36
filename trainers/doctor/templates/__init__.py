"""The report's page; a package, so that an installation carries the files."""
