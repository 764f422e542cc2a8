"""The parts of the exam: embeddings, their rows of numbers, what is kept of them, what was published."""
