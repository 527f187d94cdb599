"""The data: where a table comes from, how it is split and standardised, and its batches."""
