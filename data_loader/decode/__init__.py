"""Decoding in a child process, time stamps of frames, and clips of several segments of one video."""
