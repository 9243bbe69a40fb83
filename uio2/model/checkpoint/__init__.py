"""Reading and writing parameters: our own layout (`native`), T5X directories (`t5x`), files of the Hugging Face hub
(`huggingface`). All three read tensor by tensor, straight to where each parameter lives (`stored.py`)."""
