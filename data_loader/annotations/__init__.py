"""Annotation files -> the table of videos and captions that a data set holds."""
