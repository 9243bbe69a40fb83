"""Two or more evaluated runs beside each other: recipes, figures with significance, losses, examples."""
