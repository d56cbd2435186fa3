"""What a campaign looks like: words, tables and figures; reads, never writes."""
