"""From chains of thought to visual annotations, and whether they are true. Notebook 02."""
