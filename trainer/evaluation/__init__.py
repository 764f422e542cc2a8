"""Parts of an evaluation: embeddings, rescoring, results and their files, published numbers."""
