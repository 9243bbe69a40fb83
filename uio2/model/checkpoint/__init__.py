"""Reading and writing parameters: our own layout (`native`) and the published T5X names (`t5x`)."""
