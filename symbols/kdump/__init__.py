"""Symbol tables and data tables: structures that public symbols lack, and knowledge kept as data."""
