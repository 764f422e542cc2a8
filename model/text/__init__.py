"""The text encoder: a Hugging Face model and its tokenizer."""
