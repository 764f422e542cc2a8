"""The text tower: a Hugging Face model and its tokenizer."""
