"""From samples to tables, plots, pages and comparisons."""
