"""Models of others, loaded with little trust and little time: folders, hub, libraries."""
